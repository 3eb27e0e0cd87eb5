"""A training run in a folder: data, model and recipe, from the first step to the report. It can be stopped and resumed at any time."""

import contextlib
import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.checkpoints.formats.keras_files import load_keras
from keras_vit.config import ViTConfig
from keras_vit.files import replacing
from keras_vit.messages import counted, file_error
from keras_vit.presets import preset
from keras_vit.runtime.agreement import check_agreement
from keras_vit.runtime.devices import processes
from keras_vit.runtime.openvino import check_training
from keras_vit.training import settings
from keras_vit.training.devices.memory import check_memory, memory_error
from keras_vit.training.devices.strategy import check_batch, devices
from keras_vit.training.distillation import Distillation
from keras_vit.training.folder import BATCH, BEST, CHECKPOINTS, CONFIG, HISTORY, MODEL, check_folder, withdraw
from keras_vit.training.recipe import Recipe
from keras_vit.training.results.best import BestEpoch, is_stale
from keras_vit.training.results.summary import describe, evaluate_split, numbered, write_history, write_results
from keras_vit.training.resume import Checkpoints
from keras_vit.training.trainable import freeze
from keras_vit.training.weights import open_model


class Run:
    """Trains a model in a folder, as `keras-vit train` does.

    `train` trains the model with the recipe. It writes the model, the history, figures, a report and `config.toml` into the folder. If it
    is stopped, by Ctrl-C, a signal or a power failure, `Run.open(folder).train()` resumes it and ends with the same weights, bit for bit.

    Args:
        data: str, a source of `keras_vit.data.load`, such as "digits" or the path of a folder; or a tuple `(images, labels)` of arrays.
        model: str, the name of a preset; or a `keras_vit.VisionTransformer`, whose weights training starts from. Defaults to the preset
            of the weights, or "ViTMicro4".
        weights: str or None. Weights that training starts from: a tag of the preset, the folder of a run, or anything that
            `keras_vit.from_pretrained` reads. Defaults to None, random weights.
        recipe: str, a row of `keras_vit.training.RECIPES`; or a `Recipe`. Defaults to "finetune" with weights, else to "small_data".
        output: path of the run's folder, which must be new or empty. Without it the run can be inspected, but not trained.
        config: dict of settings, or path of a TOML file with them, such as another run's `config.toml`. Other arguments override it.
        resume: bool. Resume the run in `output`, or start it if there is none. Defaults to False.
        data_options: dict of further arguments of the data source, or None.
        train_images: int or None. Train on a fixed, stratified subset of this many training images. Defaults to None, all.
        architecture: dict of arguments of `VisionTransformer` that override the preset's, or None.
        teacher: str or None. Model that is distilled into the distillation token: `MODEL:TAG`, or any other name that `weights` accepts.
        image_size: int or None. Side that images are resized to, in pixels. Defaults to the source's, or the model's.
        seed: int. The same seed gives the same run. Defaults to 0.
        mixed_precision: bool. Compute in bfloat16. Defaults to False.
        jit_compile: bool or None. Compile with XLA. Defaults to Keras's choice.
        accumulation_steps: int or None. Number of micro-batches that each batch is split into, to save memory.
        strategy: str or None, as in `keras_vit.training.strategy`. Defaults to "auto".
        devices: str or None. "cpu:N" makes N virtual devices, to try a strategy.
        keep_best: bool. Keep the weights of the epoch with the highest validation accuracy, instead of those of the last epoch.
        patience: int or None. Stop when the validation accuracy has not risen for this many epochs.
        **recipe_values: values that override the recipe's, such as `epochs=5` and `learning_rate=1e-4`.

    Attributes:
        config: dict of all settings, as in `config.toml`.
        recipe: the `Recipe`.
        resumed: bool. Whether the folder already held the run.
        history: list with a dict for each epoch: `epoch`, from 1, and the logs of `fit`.
        phases: dict from the first epoch of each phase to a description of what it trains; empty if there is only one phase.

    Raises:
        ValueError: if a setting is unknown or wrong, the folder is not empty, or a setting differs from those of the resumed run.

    Example:
    >>> run = keras_vit.training.Run(data="digits", output="runs/digits", epochs=5)  # doctest: +SKIP
    >>> run.train()  # doctest: +SKIP
    >>> run.evaluate()["accuracy"]  # doctest: +SKIP
    0.92
    """

    def __init__(
        self,
        data: str | tuple | None = None,
        model: "str | keras.Model | None" = None,
        weights: str | None = None,
        recipe: str | Recipe | None = None,
        output: str | pathlib.Path | None = None,
        *,
        config: dict | str | pathlib.Path | None = None,
        resume: bool = False,
        data_options: dict | None = None,
        train_images: int | None = None,
        architecture: dict | None = None,
        teacher: str | None = None,
        image_size: int | None = None,
        seed: int | None = None,
        mixed_precision: bool | None = None,
        jit_compile: bool | None = None,
        accumulation_steps: int | None = None,
        strategy: str | None = None,
        devices: str | None = None,
        keep_best: bool | None = None,
        patience: int | None = None,
        **recipe_values: Any,
    ):
        check_training()
        given = dict(
            data=data, model=model, weights=weights, recipe=recipe, data_options=data_options, train_images=train_images,
            architecture=architecture, teacher=teacher, image_size=image_size, seed=seed, mixed_precision=mixed_precision,
            jit_compile=jit_compile, accumulation_steps=accumulation_steps, strategy=strategy, devices=devices, keep_best=keep_best,
            patience=patience, **recipe_values,
        )  # fmt: skip
        given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items() if value is not None}
        # Objects cannot be written into the config: arrays, a model, a recipe of the user's own.
        self._arrays = None if isinstance(given.get("data"), str) else given.pop("data", None)
        self._start = None if isinstance(model, str) else given.pop("model", None)
        mine = given.pop("recipe") if isinstance(recipe, Recipe) else None
        base = {} if config is None else dict(config) if isinstance(config, dict) else settings.read_config(config)
        self.output = None if output is None else pathlib.Path(output)
        self.resumed = resume and self.output is not None and (self.output / CONFIG).is_file()
        if self.output is not None and self.resumed:
            self.config = settings.agree(settings.read_config(self.output), base | (settings.values_of(mine) if mine else {}) | given)
        else:
            check_folder(self.output)
            if self._start is not None and "recipe" not in base:
                given.setdefault("recipe", "finetune")
            self.config = settings.complete(base, given, mine)
            if self._start is not None:
                del self.config["model"]  # the default, which a model object replaces
        if self._arrays is None and "data" not in self.config and not self.resumed:
            raise ValueError("`data` is missing: give a data source, such as digits, or a folder of images")
        self.recipe = Recipe(**self.config["training"])
        self.history, self.phases = [], {}
        self._model = self._trainer = self._checkpoints = self._phase = None

    @classmethod
    def open(cls, folder: str | pathlib.Path, **given: Any) -> "Run":
        """Returns the run in a folder, to resume or evaluate it.

        Args:
            folder: path of the run's folder.
            **given: arguments of `Run` that `config.toml` lacks: arrays, a model object, or new paths of data and weights.

        Raises:
            ValueError: if the folder holds no run, or a setting differs from those that the run was started with.
        """
        if not (pathlib.Path(folder) / CONFIG).is_file():
            raise ValueError(f"This folder holds no run. Received: {folder}")
        return cls(output=folder, resume=True, **given)

    @property
    def finished(self) -> bool:
        """Whether training has ended and the model is saved."""
        return self.output is not None and (self.output / MODEL).is_file()

    @property
    def name(self) -> str:
        """Name of the model in the report."""
        return self.config.get("model") or self.config.get("weights") or self.model.name

    @functools.cached_property
    def _devices(self):
        """(strategy or None, number of replicas, a line that describes them)."""
        found = devices(self.config.get("strategy"), self.config.get("devices"))
        if found[1] > 1:
            check_batch(self.recipe.batch_size, found[1])
        return found

    def _scope(self):
        return self._devices[0].scope() if self._devices[0] else contextlib.nullcontext()

    @functools.cached_property
    def _base(self):
        """The model whose weights training starts from, or None."""
        if self._start is not None or "weights" not in self.config:
            if self._start is None and "model" not in self.config:
                raise ValueError("This run was started with a model object: give it as `model`")
            return self._start
        if self.resumed:
            settings.check_there(self.config, "weights")
        with self._scope():
            keras.utils.set_random_seed(self.config["seed"])
            return open_model(*(self.config[key] for key in ("model", "weights") if key in self.config))

    @functools.cached_property
    def data(self):
        """The `keras_vit.data.Data` of the run."""
        from keras_vit.data import SOURCES, load  # imported late, because it imports TensorFlow
        from keras_vit.data.sources import Source

        config, _ = self.config, self._devices  # a strategy of several machines must be made before any dataset
        # A finished run does not need the weights that it started from: its own model has the same preprocessing.
        has_base = self._start is not None or "weights" in config or "model" not in config
        base = self.model if has_base and self.finished else self._base
        source, size = config.get("data") if self._arrays is None else self._arrays, config.get("image_size")
        if source is None:
            raise ValueError("This run was started with arrays: give them as `data`")
        if self.resumed:
            settings.check_there(config, "data")
        if size is None and isinstance(source, str) and (base is not None or source not in SOURCES):  # they have a size of their own
            size = (base.config.image_size[0] or 224) if base is not None else preset(config["model"]).get("input_shape", (224,))[0]
        return load(
            source, batch_size=self.recipe.batch_size, shard=processes(), augmentation=self.recipe.augmentation, seed=config["seed"],
            preprocessing=None if base is None else base.preprocessing, train_images=config.get("train_images"),
            **{} if isinstance(source, Source) else config.get("data_options", {}) | ({} if size is None else {"image_size": size}),
        )  # fmt: skip

    @property
    def model(self) -> keras.Model:
        """The trained model of a finished run, else the model that `train` trains."""
        if self._model is None:
            self._model = load_keras(self.output / MODEL, compile=True) if self.finished else self._build()
        return self._model

    def _build(self):
        config, base, data = self.config, self._base, self.data
        arguments = dict(config.get("architecture", {}))
        if base is None:
            ViTConfig.of(config["model"], **arguments)  # raises for an unknown argument
        arguments |= dict(num_classes=len(data.class_names), input_shape=data.image_shape, class_names=data.class_names)
        if config.get("mixed_precision"):
            arguments["dtype"] = "mixed_bfloat16"
        with self._scope():
            if "weights" not in config or self._start is not None:
                keras.utils.set_random_seed(config["seed"])
            return self.recipe.build(config["model"] if base is None else base, **arguments)

    def compile(self) -> keras.Model:
        """Builds a new model, compiles it with the recipe, and returns it, or its `Distillation`. `train` calls this itself."""
        self._model = self._trainer = self._build()
        if "teacher" in self.config:
            with self._scope():
                self._trainer = Distillation(self._model, open_model(self.config["teacher"]))
        for phase in reversed(self.recipe.phases()):
            freeze(self._model, phase.frozen_blocks)  # raises for blocks that the model lacks, before any training
        self._compile(self.recipe.phases()[0])
        return self._trainer

    def _compile(self, phase):
        parts = self.config.get("accumulation_steps", 1)
        options = {"jit_compile": self.config["jit_compile"]} if "jit_compile" in self.config else {}
        with self._scope():
            phase.compile(self._trainer, self.data.steps_per_epoch, parts, **options)
        check_memory(self._model, -(-phase.batch_size // (processes()[1] * parts)), phase.optimizer, phase.ema_momentum is not None)
        self._phase = phase

    def show_batch(self) -> pathlib.Path:
        """Writes a picture of the first augmented batch into the run's folder, and returns its path."""
        from keras_vit.data import show_batch

        data = self.data
        self.output.mkdir(parents=True, exist_ok=True)
        with replacing(self.output / BATCH) as temporary:
            show_batch(data, temporary)
        return self.output / BATCH

    def train(
        self,
        epochs: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        save_every: int | None = None,
        tensorboard: bool = False,
        report: bool = True,
        verbose: str | int = "auto",
    ) -> list[dict]:
        """Trains from the newest checkpoint, or from the start, and writes the results.

        Args:
            epochs: int or None. Stop after this many epochs of the schedule. Defaults to None, train to the end.
            callbacks: sequence of further `keras.callbacks.Callback`. Their state is not saved: they start again when the run is resumed.
            save_every: int or None. Steps between checkpoints, in addition to those of every ten minutes and every epoch.
            tensorboard: bool. Also write logs for TensorBoard. Defaults to False.
            report: bool. Write the model, figures and report at the end. Defaults to True.
            verbose: "auto", 0, 1 or 2, as in `fit`; 0 prints nothing. Defaults to "auto".

        Returns:
            The history: a list with a dict for each epoch.

        Raises:
            ValueError: if a setting is wrong, or a batch does not fit into memory. The folder is left as it was.
            FloatingPointError: if the loss or a weight is not finite.
        """
        if self.output is None:
            raise ValueError("Training needs a folder. Received: output=None")
        phases = self.recipe.phases()
        if self._trainer is None or self._phase != phases[0]:
            self.compile()
        self.history, self.phases, begun, start = [], {}, False, time.monotonic()
        self._verbose = verbose if processes()[0] == 0 else 0
        try:
            for number, phase in enumerate(phases, start=1):
                if number > 1:
                    self._compile(phase)
                folder = self.output / (CHECKPOINTS if number == len(phases) else f"{CHECKPOINTS}_{number}")
                checkpoints = self._checkpoints = Checkpoints(folder, every_steps=save_every)
                batches = checkpoints.resume(self.data.train_from)
                if number == 1:
                    begun = True
                    self._begin()
                if len(phases) > 1:
                    self.phases[len(self.history) + 1] = describe(phase)
                    self._say(f"Phase {number} of {len(phases)}: {describe(phase, self.data.steps_per_epoch)}")
                with self._scope():
                    self._fit(phase, self.history, checkpoints, batches, callbacks, epochs, tensorboard)
                self.history = numbered(self.history, checkpoints.history)
        except Exception as error:
            if begun and not self.resumed:
                withdraw(self.output)
            if readable := memory_error(error, self.recipe.batch_size // self._devices[1], self.config.get("accumulation_steps", 1)):
                raise readable from None
            if lost := file_error(error):
                raise ValueError(lost) from None
            raise
        finally:
            self._phase = None
        if self.config.get("keep_best") and processes()[0] == 0:
            self._model.load_weights(self.output / BEST)
        if report and processes()[0] == 0:
            write_results(self, time.monotonic() - start, self._verbose != 0)
        check_agreement({"end": len(self.history)})  # the other workers wait here until the chief has written
        return self.history

    def _begin(self):
        """Writes the config, after all checks have passed, and prints what is going to be trained."""
        data, config = self.data, self.config
        if processes()[0] > 0:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        # The image size is written even if it is the source's default, which may change.
        settings.write_config(config | {"image_size": data.image_shape[0], "class_names": list(data.class_names)}, self.output / CONFIG)
        sizes = ", ".join(f"{size:,} {split}" for split, size in data.sizes.items())
        rows, columns, _ = data.image_shape
        self._say(f"{config.get('data', 'arrays')}: {sizes} images of {rows} x {columns}, {len(data.class_names)} classes")
        self._say(f"{self.name}: {self._model.count_params():,} parameters, recipe {config['recipe']}")
        self._say(self._devices[2])

    def _say(self, text):
        if self._verbose and text:
            print(text, flush=True)

    def _fit(self, phase, before, checkpoints, batches, callbacks, limit, tensorboard):
        """Trains one phase of the recipe. `before` is the history of the phases before it."""
        epochs, steps = phase.length(self.data.steps_per_epoch)
        patience, chief = self.config.get("patience"), processes()[0] == 0
        epochs = epochs if limit is None else min(epochs, limit - len(before))
        if is_stale(checkpoints.history, patience):
            epochs = checkpoints.epoch
        if checkpoints.epoch < epochs and keras.backend.backend() != "torch":
            self._say("Compiling the training step: the first step takes longer than the others.")

        def after_epoch(epoch, logs):
            if chief:
                write_history(numbered(before, checkpoints.history), self.output / HISTORY)
            if is_stale(checkpoints.history, patience):
                self._trainer.stop_training = True

        # `checkpoints` comes after all callbacks that change the model, so that it saves their changes.
        callbacks = [*callbacks]
        if tensorboard and chief:
            callbacks.append(keras.callbacks.TensorBoard(self.output / "tensorboard", write_graph=False))
        if self.config.get("keep_best") and chief:
            callbacks.append(BestEpoch(self.output / BEST, lambda: numbered(before, checkpoints.history)))
        callbacks += [checkpoints, keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)]
        verbose = (1 if sys.stdout.isatty() else 2) if self._verbose == "auto" else self._verbose  # no progress bar in a log file
        self._trainer.fit(
            batches,
            steps_per_epoch=steps,
            epochs=epochs,
            validation_data=self.data.validation,
            callbacks=callbacks,
            shuffle=False,  # the data comes shuffled; Keras would warn
            verbose=verbose,
        )

    def position(self) -> str | None:
        """Returns the progress of `train`, such as "epoch 3 of 8 and 5 steps"; None before it starts."""
        if (checkpoints := self._checkpoints) is None:
            return None
        last = (self._phase or self.recipe.phases()[-1]).length(self.data.steps_per_epoch)[0]
        return f"epoch {checkpoints.epoch} of {last}" + (f" and {counted(checkpoints.done, 'step')}" if checkpoints.done else "")

    def evaluate(self, split: str = "test", batch_size: int = 32) -> dict:
        """Evaluates the trained model.

        Args:
            split: "test", "validation", "train" or "all". Without test images, "test" means "validation". Defaults to "test".
            batch_size: int. Number of images of a batch. Defaults to 32.

        Returns:
            dict with `split`, the one that was evaluated, `images_per_second`, and what `keras_vit.training.evaluate_predictions` returns:
            `images`, `accuracy`, `top5_accuracy`, `log_loss`, `calibration_error`, `confusion_matrix` and `classes`.

        Raises:
            ValueError: if the run is not trained, or the split is unknown.
        """
        if not (self.finished or self.history):
            raise ValueError(f"The run must be trained first, by `run.train()`. Received: {self.output}")
        return evaluate_split(self.model, self.data, split, batch_size)[0]
