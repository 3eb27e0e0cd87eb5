import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import requires_tensorflow

import keras_vit
from keras_vit.training import Checkpoints, Recipe
from keras_vit.training.resume import run_variables

STEPS, EPOCHS = 4, 2
X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(16) % 3]


def train_from(step):
    """A batch is a function of the step."""

    def batch(step):
        x = tf.random.stateless_normal((8, 5), (7, step))
        return x, tf.one_hot(tf.cast(tf.reduce_sum(x, -1), tf.int64) % 3, 3)

    return tf.data.Dataset.counter(step).map(batch).prefetch(2)


EAGER = keras.backend.backend() == "tensorflow"  # quicker than tracing, for so few steps


def small_model(optimizer=None, run_eagerly=EAGER, **compile_options):
    keras.utils.set_random_seed(0)
    dropout = keras.layers.Dropout(0.3, seed=1)  # without a seed, on torch, it draws from torch's own generator
    layers = [keras.Input((5,)), keras.layers.Dense(7), keras.layers.BatchNormalization(), dropout, keras.layers.Dense(3)]
    model = keras.Sequential([*layers, keras.layers.Softmax(dtype="float32")])
    schedule = keras.optimizers.schedules.CosineDecay(0.02, STEPS * EPOCHS)
    options = {"loss": "categorical_crossentropy", "metrics": ["accuracy", keras.metrics.Precision(name="precision")]} | compile_options
    model.compile(keras.optimizers.SGD(schedule, **dict(momentum=0.9) | (optimizer or {})), run_eagerly=run_eagerly, **options)
    return model


class Stop(keras.callbacks.Callback):
    """Ends `fit` as a kill would: after a step of the whole run, or at a moment of an epoch, once the checkpoints are written."""

    def __init__(self, checkpoints, step=None, test=None, epoch_begin=None):
        super().__init__()
        self.checkpoints, self.step, self.test, self.epoch_begin = checkpoints, step, test, epoch_begin

    def stop_if(self, now):
        if now:
            self.checkpoints._check_writer(wait=True)
            raise RuntimeError("killed")

    def on_train_batch_end(self, batch, logs=None):
        self.stop_if(self.step is not None and self.checkpoints.step >= self.step)

    def on_test_begin(self, logs=None):
        self.stop_if(self.test == self.checkpoints.epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self.stop_if(self.epoch_begin == epoch)


class StopAtBegin(Stop):
    """The same without a callback that needs each step's loss, so that JAX and torch report losses in the background."""

    on_train_batch_end = keras.callbacks.Callback.on_train_batch_end

    def on_train_batch_begin(self, batch, logs=None):
        self.stop_if(self.step is not None and self.checkpoints.step >= self.step)


def fit(model, checkpoints, *callbacks, **options):
    return model.fit(
        checkpoints.resume(train_from),
        **dict(steps_per_epoch=STEPS, epochs=EPOCHS, validation_data=(X, Y), callbacks=[checkpoints, *callbacks], verbose=0, shuffle=False)
        | options,
    )


def states(model):
    return {key: keras.ops.convert_to_numpy(v) for key, v in run_variables(model, "model", "optimizer").items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def check_resume(folder, make, moments, stop=Stop, **options):
    """Stops a run at each of the moments and begins anew with nothing but the folder; compares with a run that was not stopped."""
    unbroken, checkpoints = make(), Checkpoints(folder / "unbroken", every_steps=2)
    history = fit(unbroken, checkpoints, **options).history
    for moment in moments:
        again = Checkpoints(folder / "resumed", every_steps=2)
        with pytest.raises(RuntimeError, match="killed"):
            fit(make(), again, stop(again, **moment), **options)
    resumed, again = make(), Checkpoints(folder / "resumed", every_steps=2)
    returned = fit(resumed, again, **options)
    assert_same(states(resumed), states(unbroken))
    assert again.history == checkpoints.history and returned.history == history and returned.epoch == list(range(EPOCHS))
    assert (again.epoch, again.done, again.step) == (EPOCHS, 0, checkpoints.step)


# One step after a checkpoint, in the validation of the epoch that was resumed, with a checkpoint, after the last step.
MOMENTS = [dict(step=3), dict(test=0), dict(step=6), dict(step=8)]


def test_steps(tmp_path):
    check_resume(tmp_path, small_model, MOMENTS)


def test_between_epochs_and_without_validation(tmp_path):
    check_resume(tmp_path, small_model, [dict(epoch_begin=1)], validation_data=None)


def test_steps_that_wait_for_no_loss(tmp_path):
    check_resume(tmp_path, small_model, [dict(step=3), dict(test=0), dict(step=5), dict(step=6), dict(test=1)], StopAtBegin)
    threads = set()

    class Watched(Checkpoints):
        def on_train_batch_end(self, batch, logs=None):
            threads.add(threading.get_ident())
            super().on_train_batch_end(batch, logs)

    checkpoints = Watched(tmp_path / "watched")
    fit(small_model(), checkpoints, validation_data=None)
    assert (threading.get_ident() in threads) == (keras.backend.backend() == "tensorflow")
    assert (checkpoints.step, checkpoints.done) == (STEPS * EPOCHS, 0)


def test_a_callback_may_end_a_run_in_a_resumed_epoch(tmp_path):
    broken = Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(RuntimeError, match="killed"):
        fit(small_model(), broken, Stop(broken, step=2))
    ending = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(ending.model, "stop_training", True))
    again = Checkpoints(tmp_path)
    assert fit(small_model(), again, callbacks=[ending, again]).epoch == [0]


GRAPH = dict(run_eagerly=False)


@requires_tensorflow
@pytest.mark.parametrize(
    "make, step, options",
    [
        (lambda: small_model(steps_per_execution=2, **GRAPH), 6, {}),
        (lambda: small_model(steps_per_execution=3, **GRAPH), 9, {}),  # 6 steps an epoch
        (lambda: small_model(jit_compile=True, **GRAPH), 7, {}),
        (lambda: small_model(dict(use_ema=True, ema_overwrite_frequency=5)), 7, {}),
        (lambda: small_model(dict(gradient_accumulation_steps=3)), 7, {}),
        (lambda: small_model(weighted_metrics=["accuracy"]), 7, dict(class_weight={0: 1.0, 1: 0.5, 2: 2.0})),
    ],
    ids=["steps_per_execution", "uneven_steps_per_execution", "jit_compile", "ema", "gradient_accumulation", "class_weight"],
)
def test_what_fit_can_be_told(tmp_path, make, step, options):
    check_resume(tmp_path, make, [dict(step=step)], **options)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_precision(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        check_resume(tmp_path, small_model, [dict(step=7)])
    finally:
        keras.config.set_dtype_policy("float32")


@requires_tensorflow
def test_a_vision_transformer_by_our_recipe(tmp_path):
    rates = dict(dropout_rate=0.1, drop_path_rate=0.2)
    recipe = Recipe("", epochs=EPOCHS, batch_size=8, warmup_epochs=1, weight_decay=0.1, clip_norm=1.0, **rates)

    def make():
        keras.utils.set_random_seed(0)
        model = keras_vit.VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, 3, **rates)
        recipe.compile(model, STEPS, run_eagerly=EAGER)
        return model

    def images_from(step):
        return train_from(step).map(lambda x, y: (tf.reshape(tf.tile(x, (1, 39))[:, :192], (8, 8, 8, 3)) * 60 + 128, y))

    unbroken, resumed = make(), make()
    options = dict(steps_per_epoch=STEPS, epochs=EPOCHS, verbose=0, shuffle=False)
    unbroken.fit(images_from(0), **options)
    broken = Checkpoints(tmp_path, every_steps=3)
    with pytest.raises(RuntimeError, match="killed"):
        make().fit(broken.resume(images_from), callbacks=[broken, Stop(broken, step=7)], **options)
    again = Checkpoints(tmp_path)
    resumed.fit(again.resume(images_from), callbacks=[again], **options)
    assert_same(states(resumed), states(unbroken))


def test_other_data_begin_the_epoch_again(tmp_path, capsys):
    """As exact, if an epoch brings the same batches each time."""
    options = dict(x=X, y=Y, batch_size=4, shuffle=False, epochs=2, verbose=0)
    unbroken = small_model()
    history = unbroken.fit(**options).history
    for moment in (dict(step=3), dict(step=6)):
        broken = Checkpoints(tmp_path)
        with pytest.raises(RuntimeError, match="killed"):
            small_model().fit(**options, callbacks=[broken, Stop(broken, **moment)])
        assert [path.name for path in broken.files()] == ["step-000000004.npz"][: moment["step"] // 4]
    resumed, again = small_model(), Checkpoints(tmp_path)
    assert resumed.fit(**options, callbacks=[again]).history == history
    assert_same(states(resumed), states(unbroken))
    assert f"resuming after 0 steps of epoch 2, from {tmp_path / 'step-000000004.npz'}" in capsys.readouterr().err


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    first = small_model(dict(use_ema=True))
    history = fit(first, Checkpoints(tmp_path)).history
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second, checkpoints = small_model(dict(use_ema=True)), Checkpoints(tmp_path)
    assert fit(second, checkpoints).history == history
    assert_same(states(second), states(first))  # also the average, which `fit` makes the weights at its end
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert fit(second, checkpoints, epochs=EPOCHS + 1).epoch == list(range(EPOCHS + 1))  # and with more epochs it goes on


def test_when_checkpoints_are_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, every_steps=3, keep=100)
    fit(small_model(), checkpoints)
    assert [int(path.stem[5:]) for path in checkpoints.files()] == [3, 4, 6, 8]
    by_time = Checkpoints(tmp_path / "time", every_seconds=1e-9, keep=100)
    fit(small_model(), by_time)
    assert len(by_time.files()) == STEPS * EPOCHS
    newest = Checkpoints(tmp_path / "keep", every_steps=1, keep=3)
    fit(small_model(), newest)
    assert sorted(path.name for path in newest.folder.iterdir()) == [".lock", *(f"step-00000000{step}.npz" for step in (6, 7, 8))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The newest two checkpoints of a run, after steps 6 and 7 of 8."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, every_steps=1)
    with pytest.raises(RuntimeError, match="killed"):
        fit(small_model(), checkpoints, Stop(checkpoints, step=7))
    return {path.name: path.read_bytes() for path in checkpoints.files()}


def put(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in sorted(files)]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path, saved, capsys, damage):
    older, newest = put(tmp_path, saved)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    checkpoints.resume(train_from)
    assert checkpoints.step == 6
    assert f"skipped the damaged checkpoint {newest}" in capsys.readouterr().err
    fit(small_model(), checkpoints)
    assert [path.name for path in checkpoints.files()] == ["step-000000007.npz", "step-000000008.npz"]


def test_every_flipped_bit_is_found_or_does_not_matter(tmp_path, saved):
    (path,) = put(tmp_path, {"step-000000006.npz": saved["step-000000006.npz"]})
    content, rng = saved[path.name], np.random.default_rng(0)
    expected, found = Checkpoints(tmp_path), 0
    expected.resume(train_from)
    for place in rng.integers(len(content), size=400):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        damaged = Checkpoints(tmp_path)
        try:
            damaged.resume(train_from)
        except ValueError:
            found += 1
        else:
            assert_same(damaged._arrays, expected._arrays)
            assert (damaged.step, damaged.history) == (expected.step, expected.history)
    assert found > 100


def test_damaged_checkpoints_alone_are_refused(tmp_path):
    (tmp_path / "step-000000004.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="All checkpoints are damaged: remove them to start again. Received: "):
        Checkpoints(tmp_path).resume(train_from)


def test_another_model_is_refused_and_left_as_it_was(tmp_path, saved):
    put(tmp_path, saved)
    other = small_model(dict(momentum=0.0))
    before = states(other)
    with pytest.raises(ValueError, match=r"another model, optimizer or metrics. Received: .*step-000000007.npz"):
        fit(other, Checkpoints(tmp_path))
    assert_same(states(other), before)


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda c: small_model().fit(X, Y, callbacks=[c], verbose=0), "in the middle of an epoch .* Received: .*step-000000006.npz"),
        (lambda c: fit(small_model(steps_per_execution=2), c), "the same `steps_per_execution` .* Received: steps_per_execution=2"),
        (lambda c: fit(small_model(), c, steps_per_epoch=3), "`steps_per_epoch`. Received: steps_per_execution=1, steps_per_epoch=3"),
        (lambda c: fit(small_model(metrics=[]), c), "another model, optimizer or metrics"),
    ],
    ids=["data", "steps_per_execution", "steps_per_epoch", "metrics"],
)
def test_an_epoch_goes_on_as_it_began(tmp_path, saved, call, rule):
    put(tmp_path, {"step-000000006.npz": saved["step-000000006.npz"]})
    with pytest.raises(ValueError, match=rule):
        call(Checkpoints(tmp_path))


def test_steps_need_data_that_can_begin_at_one(tmp_path):
    with pytest.raises(ValueError, match="`every_steps` needs the data of `resume`, .* Received: every_steps=5"):
        small_model().fit(X, Y, callbacks=[Checkpoints(tmp_path, every_steps=5)], verbose=0)


@pytest.mark.parametrize("name, value", [("keep", 0), ("keep", None), ("every_steps", 0), ("every_seconds", -1.0)])
def test_wrong_numbers_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be greater than 0. Received: {name}={value}"):
        Checkpoints(tmp_path, **{name: value})
