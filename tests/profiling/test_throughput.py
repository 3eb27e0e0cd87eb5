import csv
import io
import json

import numpy as np
import pytest
from helpers import command

from keras_vit.profiling import throughput
from keras_vit.profiling.steps import Job, Steps, answer, measure, start, stop, timed

# https://github.com/huggingface/pytorch-image-models/blob/main/results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv and
# benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv
INFER = "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts"
TRAIN = "model,train_samples_per_sec,train_step_time,train_batch_size,train_img_size,param_count"
# fvcore counts norms, too: its gmacs are up to 0.02 higher.
TIMM = {
    "vit_tiny_patch16_224": (5.72, 1.26, 5.97),
    "vit_small_patch32_224": (22.88, 1.15, 2.5),
    "vit_base_patch32_224": (88.22, 4.41, 5.01),
}
TINY = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)


call = command("benchmark")


@pytest.fixture
def measured(monkeypatch):
    """Puts two steps of 10 and 30 ms in place of measuring. ViTB16 fails."""

    def measure(jobs):
        if jobs[0].arguments["hidden_dim"] == 768 and jobs[0].arguments["patch_size"] == 16:
            raise RuntimeError("Measuring failed: no memory")
        return [Steps([0.01, 0.03], 123_400_000)]

    monkeypatch.setattr(throughput, "measure", measure)


def test_the_table_joins_timms(capsys, measured):
    code, out, error = call(capsys, "ViTTi16", "ViTS32", "ViTB32", "--format", "csv", "--batch-size", 4)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and set(INFER.split(",")) <= set(rows[0]), error
    for row in rows:
        parameters, gmacs, macts = TIMM[row["model"]]
        assert float(row["param_count"]) == parameters and float(row["infer_macts"]) == macts
        assert float(row["infer_gmacs"]) == pytest.approx(gmacs, abs=0.02)
        assert (row["infer_samples_per_sec"], row["infer_step_time"], row["infer_img_size"]) == ("200.0", "20.0", "224")
        assert (row["latency_p50"], row["latency_p99"], row["peak_memory_mb"]) == ("20.0", "29.8", "123")
    code, out, _ = call(capsys, "ViTTi16", "--format", "csv", "--training")
    assert code == 0 and set(TRAIN.split(",")) <= set(out.splitlines()[0].split(","))


def test_other_forms_and_failures(capsys, measured):
    code, out, error = call(capsys, "ViTB16", "ViTTi16", "--format", "json", "--input-shape", "384")
    (row,) = json.loads(out)
    assert code == 1 and error == "keras-vit: ViTB16: Measuring failed: no memory\n" and row["model"] == "vit_tiny_patch16_384"
    code, out, _ = call(capsys, "ViTTi16", "--dtype", "mixed_bfloat16")
    assert code == 0 and "batch 8, mixed_bfloat16" in out and "Images/s" in out and "400.0" in out
    for arguments, message in (
        (["ViTB61"], "Received: 'ViTB61'"),
        (["ViTTi16", "--input-shape", "225"], "The patch must divide the image"),
        (["ViTTi16", "--batch-size", 0], "--batch-size"),
        (["ViTTi16", "--dtype", "float8"], "float8"),
    ):
        code, out, error = call(capsys, *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("training", [False, True])
def test_steps_are_timed(training):
    (found,) = timed([Job(TINY, 2, training, seconds=0, least=3)])
    assert len(found.seconds) == 3 and min(found.seconds) > 0 and found.peak_bytes > 10**8


@pytest.mark.slow
def test_models_are_measured_in_a_process_of_their_own():
    large = np.ones(2**31, "uint8")  # the memory of the process that measures is not that of the measured
    found = measure([Job(TINY, 2, seconds=0, least=3), Job(TINY | {"num_layers": 2}, 1, True, seconds=0, least=4)])
    assert found[1].peak_bytes < large.nbytes
    del large
    assert [len(steps.seconds) for steps in found] == [3, 4] and found[0].peak_bytes == found[1].peak_bytes
    with pytest.raises(RuntimeError, match="Measuring failed: ValueError: .*patch"):
        measure([Job(TINY | {"patch_size": 7}, 1)])
    slow = start([Job(TINY, 1)])
    with pytest.raises(RuntimeError, match="no answer in 0 s"):
        answer(slow, timeout=0.01)
    stop(slow)
