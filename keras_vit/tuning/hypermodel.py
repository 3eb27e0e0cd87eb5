"""A hypermodel of Keras Tuner for a Vision Transformer and its recipe."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
from typing import Any

import keras
import keras_tuner

from keras_vit.config import ViTConfig
from keras_vit.cost.device import available_bytes
from keras_vit.data import SOURCES, load
from keras_vit.data.augmentation import named_augmentation
from keras_vit.data.sources import decoded_once, open_source
from keras_vit.files import replacing
from keras_vit.names import choose
from keras_vit.presets import preset
from keras_vit.training import RECIPES, Recipe, Run
from keras_vit.training.folder import BEST, CHECKPOINTS
from keras_vit.training.settings import values_of
from keras_vit.tuning.spaces import ARCHITECTURE, AUGMENTATION, TRAINING, architectures, arguments_of, open_space

OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")


class ViTHyperModel(keras_tuner.HyperModel):
    """Defines the search space of a Vision Transformer for every tuner of Keras Tuner.

    A trial is a `keras_vit.training.Run`, bit for bit equal to `keras-vit train --config` with `config(values)`. It keeps the weights of
    its best epoch, and the validation accuracy of that epoch is its score. It writes a checkpoint each epoch. A trial that is retried or
    promoted by Hyperband resumes from its last checkpoint.

    The architecture is one parameter, `architecture`. Its values are the combinations that can be built within the budget: heads divide
    the width, and patches divide the image. No other combination is sampled.

    Args:
        data: str, tuple or source. A data source as in `keras_vit.data.load`.
        space: str or dict. Name of a row of `SPACES`, or rows as in `keras_vit.tuning.open_space`. Defaults to "from_scratch".
        model: str or VisionTransformer. Name of a preset, or a model whose weights each trial starts from. The space changes its
            arguments. Defaults to "ViTMicro4".
        recipe: str or Recipe. Name of a row of `RECIPES`, or a recipe with a length in epochs. The space changes its values. Defaults to
            "small_data".
        max_parameters: int or None. Largest number of parameters; None means no limit. Defaults to None.
        max_macs: int or None. Largest number of multiply-adds per image; None means no limit. Defaults to None.
        patience: int or None. Number of epochs without a rise of `val_accuracy` after which a trial stops; None means never. Defaults to
            None.
        architecture: dict or None. Further arguments of `VisionTransformer`. Defaults to None.
        image_size: int or None. Side in pixels that images are resized to; None takes that of the source or the model. Defaults to None.
        seed: int. Seed of data, weights and training, the same for all trials. Defaults to 0.
        mixed_precision: bool. Whether to compute in bfloat16. Defaults to False.
        jit_compile: bool or None. As in `compile`; None takes the default of Keras. Defaults to None.
        settings: dict or None. Further keys for `config`, such as "weights" and "recipe". Defaults to None.
        **options: further arguments of `keras_vit.data.load`, such as `train_images`.

    Attributes:
        rows: dict. The rows of the space.
        choices: list of dict. The architectures of the space, in ascending order of multiply-adds.

    Raises:
        ValueError: if the space, a parameter or a value is unknown, nothing meets the budget, or the data have one class.

    Example:
    >>> import keras_tuner
    >>> hypermodel = ViTHyperModel("digits", {"num_heads": (2, 3, 5), "learning_rate": (1e-3, 3e-3)})
    >>> hypermodel.choices  # 5 does not divide the width of 96
    [{'num_heads': 2}, {'num_heads': 3}]
    >>> tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=4, directory="studies")  # doctest: +SKIP
    >>> tuner.search()  # doctest: +SKIP
    """

    def __init__(
        self,
        data: Any,
        space: str | dict[str, Any] = "from_scratch",
        model: str | keras.Model = "ViTMicro4",
        recipe: str | Recipe = "small_data",
        max_parameters: int | None = None,
        max_macs: int | None = None,
        patience: int | None = None,
        architecture: dict[str, Any] | None = None,
        image_size: int | None = None,
        seed: int = 0,
        mixed_precision: bool = False,
        jit_compile: bool | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.rows, self.model = open_space(space), model
        self.recipe = recipe if isinstance(recipe, Recipe) else choose("recipe", recipe, RECIPES)
        if self.recipe.epochs is None or self.recipe.head_epochs:
            raise ValueError(
                "A search needs a recipe with `epochs` and without `head_epochs`. "
                f"Received: epochs={self.recipe.epochs}, head_epochs={self.recipe.head_epochs}"
            )
        if patience is not None and not patience >= 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={patience}")
        self.patience, self.seed, self.mixed_precision, self.jit_compile = patience, seed, mixed_precision, jit_compile
        self.architecture, self.settings = architecture or {}, dict(settings or {})
        self.settings |= {"data": data} if isinstance(data, str) else {}
        self.settings |= {"model": model} if isinstance(model, str) else {}
        if image_size is None and isinstance(data, str) and (not isinstance(model, str) or data not in SOURCES):
            shape = preset(model).get("input_shape", (224,)) if isinstance(model, str) else model.input_shape[1:]
            image_size = shape[0] or 224
        self.train_images = options.pop("train_images", None)
        self.options = options | ({} if image_size is None else {"image_size": image_size})
        self.source = decoded_once(open_source(data, self.options), int(min(available_bytes() / 2, 2**40)))  # for all trials
        found = load(self.source, 1, seed=seed, train_images=self.train_images)
        self.class_names, self.image_shape, self.images = found.class_names, found.image_shape, found.sizes["train"]
        if len(self.class_names) < 2:
            raise ValueError(f"The data must have two classes or more. Received: {', '.join(self.class_names)}")
        self.choices = architectures(self.rows, self._bases(), max_parameters, max_macs)
        self.budget = {"max_parameters": max_parameters, "max_macs": max_macs}
        self._run = None  # the run of the last model that `build` returned
        self._check_training()

    @property
    def batch_sizes(self):
        """Batch sizes of the search space."""
        row = self.rows.get("batch_size", (self.recipe.batch_size,))
        return range(row["low"], row["high"] + 1) if isinstance(row, dict) else row

    def declare_hyperparameters(self, hp: Any) -> None:
        """Adds all parameters of the space to `hp`."""
        if len(self.choices) > 1:
            hp.Choice("architecture", [json.dumps(choice) for choice in self.choices])
        for name, row in self.rows.items():
            if name not in ARCHITECTURE:
                if isinstance(row, dict):
                    whole = isinstance(row["low"], int) and isinstance(row["high"], int)
                    (hp.Int if whole else hp.Float)(name, row["low"], row["high"], sampling="log" if row.get("log") else "linear")
                else:
                    hp.Choice(name, list(row))

    def build(self, hp: Any) -> keras.Model:
        """Returns the compiled model of a trial."""
        self.declare_hyperparameters(hp)
        self._run = None  # frees the model of the last trial
        self._run = self.run(hp.values)
        return self._run.compile()

    def run(self, values: dict[str, Any]) -> Run:
        """Returns the `keras_vit.training.Run` of a trial, without a folder. Arguments as in `values`."""
        model = self.values(values).get("model", self.model)
        run = Run(
            self.source,
            model,
            recipe=self.recipe_of(values),
            strategy="one_device",  # unless the scope of the tuner's strategy is active
            train_images=self.train_images,
            **self._settings(values),
        )
        run.config |= self.config(values)  # adds the names of data and weights
        return run

    def fit(self, hp: Any, model: keras.Model, *args: Any, callbacks: Any = (), verbose: Any = 0, **kwargs: Any) -> dict[str, float]:
        """Trains the model of a trial on the data of the hypermodel, from its newest checkpoint if there is one.

        Returns:
            dict with the `val_accuracy` of the weights that are kept: those of the best epoch, or averaged weights of the last epoch.
        """
        if args:
            raise keras_tuner.errors.FatalValueError("Pass the data to ViTHyperModel, not to `search`")
        if self._run is None or self._run.model is not model:
            raise keras_tuner.errors.FatalValueError("The model must be the last one that `build` returned")
        place = next((callback for callback in callbacks if hasattr(callback, "tuner")), None)
        with contextlib.ExitStack() as stack:
            if place and place.tuner.executions_per_trial == 1:
                folder = pathlib.Path(place.tuner.get_trial_dir(place.trial.trial_id))
                if "tuner/trial_id" in hp.values:
                    take_over(pathlib.Path(place.tuner.get_trial_dir(hp.values["tuner/trial_id"])), folder)
            else:  # several executions of a trial do not share checkpoints
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._run.output = folder
            history = self._run.train(hp.values.get("tuner/epochs"), callbacks, report=False, verbose=verbose)
        scores = [row["val_accuracy"] for row in history]
        return {"val_accuracy": max(scores) if self._run.config.get("keep_best") else scores[-1]}

    def values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters of a trial by name, including those of the architecture.

        Args:
            values: dict. The values of the hyperparameters, such as `trial.hyperparameters.values`.
        """
        choice = json.loads(values["architecture"]) if "architecture" in values else self.choices[0]
        return choice | {name: values[name] for name in self.rows if name not in ARCHITECTURE}

    def recipe_of(self, values: dict[str, Any]) -> Recipe:
        """Returns the `Recipe` of a trial. Arguments as in `values`."""
        values = self.values(values)
        changes = {name: value for name, value in values.items() if name in TRAINING}
        if "frozen_blocks" in values:
            changes["frozen_blocks"] = None if values["frozen_blocks"] == "none" else values["frozen_blocks"]
        added = "".join(addition(name, values[name]) for name in AUGMENTATION if values.get(name))
        changes["augmentation"] = changes.get("augmentation", self.recipe.augmentation) + added
        return dataclasses.replace(self.recipe, **changes)

    def config(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the config of a trial for `keras-vit train --config`. Arguments as in `values`."""
        model = {"model": self.values(values)["model"]} if "model" in self.values(values) else {}
        config = self.settings | model | {"image_size": self.image_shape[0], "training": values_of(self.recipe_of(values))}
        options = {name: value for name, value in self.options.items() if name != "image_size"}
        config |= {"train_images": self.train_images} if self.train_images else {}
        config |= {"data_options": options} if options else {}
        return config | {name: value for name, value in self._settings(values).items() if value is not None}

    def _settings(self, values):
        """Returns the arguments of a trial's `Run`. None means the default."""
        return dict(
            architecture=self._changes(values) or None,
            seed=self.seed,
            mixed_precision=self.mixed_precision or None,
            jit_compile=self.jit_compile,
            keep_best=(self.recipe_of(values).ema_momentum is None) or None,  # averaged weights are only those of the last epoch
            patience=self.patience,
        )

    def describe(self) -> dict[str, Any]:
        """Returns the settings that identify the search, as a dict for JSON."""
        data = {"images": self.images, "image_shape": self.image_shape, "class_names": self.class_names}
        recipe = {f"recipe.{name}": value for name, value in dataclasses.asdict(self.recipe).items()}
        settings = {"architecture": self.architecture, "patience": self.patience, "mixed_precision": self.mixed_precision}
        return {"space": self.rows, "seed": self.seed, **data, **self.settings, **self.budget, **settings, **recipe}

    def _bases(self):
        """Returns all arguments of each model of the space."""
        if not isinstance(self.model, str):
            if fixed := [name for name in self.rows if name in ARCHITECTURE and name not in ("patch_size", "pooling", "frozen_blocks")]:
                raise ValueError(f"The dimensions of a model with weights cannot be searched. Received: the parameter {fixed[0]}")
        known = dict(num_classes=len(self.class_names), input_shape=self.image_shape, include_top=True)
        return {name: ViTConfig.of(name, **self.architecture, **known).to_dict() for name in self.rows.get("model", (self.model,))}

    def _changes(self, values):
        """Returns the arguments of `VisionTransformer` in which a trial's model differs from its preset."""
        values = self.values(values)
        return self.architecture | arguments_of(values, ViTConfig.of(values.get("model", self.model), **self.architecture).to_dict())

    def _check_training(self):
        """Checks every value of the recipe, so that none fails in a trial."""
        for name, row in self.rows.items():
            for value in (row["low"], row["high"]) if isinstance(row, dict) else row:
                if name in TRAINING:
                    dataclasses.replace(self.recipe, **{name: value})
                if name == "augmentation" or name in AUGMENTATION:
                    named_augmentation(value if name == "augmentation" else self.recipe.augmentation + addition(name, value))
                if name == "batch_size" and value > self.images:
                    raise ValueError(f"`batch_size` must be at most the {self.images} training images. Received: batch_size={value}")


def addition(name: str, value: float) -> str:
    """Returns the suffix of an augmentation's name, such as "+mixup(0.2)"."""
    return f"+{name}({value:.4f}".rstrip("0").rstrip(".") + ")"


def take_over(old: pathlib.Path, new: pathlib.Path) -> None:
    """Copies the newest checkpoint of the trial in `old` to the trial in `new`, unless that has one."""
    if not any((new / CHECKPOINTS).glob("step-*.npz")):
        (new / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        best = [old / BEST] * (old / BEST).exists()
        for path in best + sorted((old / CHECKPOINTS).glob("step-*.npz"))[-1:]:
            with replacing(new / CHECKPOINTS / path.name) as temporary:
                shutil.copyfile(path, temporary)
