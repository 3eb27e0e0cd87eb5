"""`keras-vit quantize`: writes a model with smaller weights, in Keras's own format."""

import enum
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import check_new_file, quiet
from keras_vit_cli.models import FORCE, SOURCES, open_model


class Mode(enum.StrEnum):
    INT8 = "int8"
    INT8_WEIGHTS = "int8_weights"
    INT4 = "int4"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def quantize(
    model: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Option(help="File *.keras.")],
    mode: Annotated[
        Mode,
        typer.Option(
            help="int8: kernels and activations in 8 bits; int8_weights: only kernels; int4: kernels in 4 bits; bfloat16, float16: all "
            "weights, and the computation."
        ),
    ] = Mode.INT8_WEIGHTS,
    force: Annotated[bool, typer.Option("--force", help=FORCE)] = False,
):
    """Quantizes a model.

    No data are needed. The file is loaded again and compared before it is kept. `keras-vit evaluate` measures the loss of accuracy.
    """
    check_new_file(output, force, ".keras")
    with quiet():
        import keras
        import numpy as np
        from keras import ops

        from keras_vit.files import replacing
        from keras_vit.quantization import quantize as smaller
        from keras_vit.quantization import weight_bytes
    before = open_model(model)
    after = smaller(before, mode.value)
    shape = [side or 224 for side in before.input_shape[1:]]
    images = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    outputs = {}
    with replacing(output) as temporary:
        after.save(temporary)
        size = temporary.stat().st_size
        for name, each in (("before", before), ("after", after), ("loaded", keras.saving.load_model(temporary, compile=False))):
            outputs[name] = ops.convert_to_numpy(ops.cast(each(images), "float32"))
        scale = np.abs(outputs["before"]).max() or 1.0
        # In half precision, two traces of the same model may round differently.
        if not np.allclose(outputs["loaded"], outputs["after"], atol=(1e-5 if "int" in mode.value else 1e-2) * scale):
            raise RuntimeError(f"The saved model does not give the same outputs as before saving. Received: {output}")
    change = np.abs(outputs["after"] - outputs["before"]).max() / scale
    megabytes = (f"{weight_bytes(each) / 1e6:.1f}" for each in (before, after))
    print("{}: {:.1f} MB; weights {} MB, before {} MB".format(output, size / 1e6, *list(megabytes)[::-1]))
    print(f"Largest change of an output on noise: {100 * change:.2g} % of the largest output")
