"""A Vision Transformer and its recipe as a search space of Keras Tuner."""

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
from keras_vit.data import SOURCES, load
from keras_vit.data.augmentation import named_augmentation
from keras_vit.data.sources import decoded_once, open_source
from keras_vit.files import replacing
from keras_vit.names import choose
from keras_vit.presets import preset
from keras_vit.training import RECIPES, Recipe, Run
from keras_vit.training.devices.memory import available_bytes
from keras_vit.training.folder import BEST, CHECKPOINTS
from keras_vit.training.settings import values_of
from keras_vit.tuning.spaces import ARCHITECTURE, AUGMENTATION, TRAINING, architectures, arguments_of, open_space

OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")


class ViTHyperModel(keras_tuner.HyperModel):
    """The search space of a Vision Transformer, for every tuner of Keras Tuner.

    A trial is a `keras_vit.training.Run`, bit for bit the one of `keras-vit train --config` with `config(values)`. It keeps the weights of
    its best epoch, whose validation accuracy is its score. It writes a checkpoint each epoch: a trial that is repeated, or that Hyperband
    promotes, resumes from there.

    The architecture is one parameter, `architecture`. Its values are the combinations that can be built within the budget: heads divide
    the width, and patches divide the image. No other combination is sampled.

    Args:
        data: a data source, as `keras_vit.data.load` takes it.
        space: name of a row of `SPACES`, or a dict, see `keras_vit.tuning.open_space`.
        model: name of a preset, or a `VisionTransformer` whose weights trials begin with. The space changes its arguments.
        recipe: name of a row of `RECIPES`, or a `Recipe`, with a length in epochs. The space changes its values.
        max_parameters: int or None. Largest number of parameters.
        max_macs: int or None. Largest number of multiply-adds per image.
        patience: int or None. A trial stops when `val_accuracy` has not risen for this many epochs.
        architecture: dict of further arguments of `VisionTransformer`, or None.
        image_size: int or None. Side that images are resized to. None takes that of the source or the model.
        seed: int. Seed of data, weights and training, the same for all trials. Defaults to 0.
        mixed_precision: bool. Compute in bfloat16.
        jit_compile: bool or None, as in `compile`. None is Keras's default.
        settings: dict of further keys for `config`, such as "weights" and "recipe".
        **options: passed to `keras_vit.data.load`, such as `train_images`.

    Attributes:
        rows: dict. The rows of the space.
        choices: list of dict. The architectures of the space, those with fewer multiply-adds first.

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
            raise ValueError("A search needs a recipe in epochs, without `head_epochs`: give `epochs`")
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
        self.source = decoded_once(open_source(data, self.options), min(available_bytes() / 2, 2**40))  # for all trials
        found = load(self.source, 1, seed=seed, train_images=self.train_images)
        self.class_names, self.image_shape, self.images = found.class_names, found.image_shape, found.sizes["train"]
        if len(self.class_names) < 2:
            raise ValueError(f"The data must have two classes or more. Received: {', '.join(self.class_names)}")
        self.choices = architectures(self.rows, self._bases(), max_parameters, max_macs)
        self.budget = {"max_parameters": max_parameters, "max_macs": max_macs}
        self._run = None  # of the model that `build` has returned last
        self._check_training()

    @property
    def batch_sizes(self):
        row = self.rows.get("batch_size", (self.recipe.batch_size,))
        return range(row["low"], row["high"] + 1) if isinstance(row, dict) else row

    def declare_hyperparameters(self, hp: Any):
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
        """Returns the model of a trial, compiled."""
        self.declare_hyperparameters(hp)
        self._run = None  # and with it the model of the trial before
        self._run = self.run(hp.values)
        return self._run.compile()

    def run(self, values: dict[str, Any]) -> Run:
        """Returns the `keras_vit.training.Run` of a trial, without a folder. Arguments as in `values`."""
        model = self.values(values).get("model", self.model)
        run = Run(
            self.source,
            model,
            recipe=self.recipe_of(values),
            strategy="one_device",  # unless the tuner has another one in scope
            train_images=self.train_images,
            **self._settings(values),
        )
        run.config |= self.config(values)  # with the names of data and weights
        return run

    def fit(self, hp: Any, model: keras.Model, *args: Any, callbacks: Any = (), verbose: Any = 0, **kwargs: Any) -> dict[str, float]:
        """Trains the model of a trial, from its newest checkpoint if there is one. The data are the hypermodel's own.

        Returns:
            dict with `val_accuracy`: that of the weights that are kept, of the best epoch or, where weights are averaged, of the last.
        """
        if args:
            raise keras_tuner.errors.FatalValueError("The data are given to ViTHyperModel, not to `search`")
        if self._run is None or self._run.model is not model:
            raise keras_tuner.errors.FatalValueError("The model must be the one that `build` has returned last")
        place = next((callback for callback in callbacks if hasattr(callback, "tuner")), None)
        with contextlib.ExitStack() as stack:
            if place and place.tuner.executions_per_trial == 1:
                folder = pathlib.Path(place.tuner.get_trial_dir(place.trial.trial_id))
                if "tuner/trial_id" in hp.values:
                    take_over(pathlib.Path(place.tuner.get_trial_dir(hp.values["tuner/trial_id"])), folder)
            else:  # several runs of one trial each begin anew
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._run.output = folder
            history = self._run.train(hp.values.get("tuner/epochs"), callbacks, report=False, verbose=verbose)
        scores = [row["val_accuracy"] for row in history]
        return {"val_accuracy": max(scores) if self._run.config.get("keep_best") else scores[-1]}

    def values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters of a trial by name, those of the architecture among them.

        Args:
            values: dict of the values of hyperparameters, such as `trial.hyperparameters.values`.
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
        """Returns the config of a trial, which `keras-vit train --config` takes. Arguments as in `values`."""
        model = {"model": self.values(values)["model"]} if "model" in self.values(values) else {}
        config = self.settings | model | {"image_size": self.image_shape[0], "training": values_of(self.recipe_of(values))}
        options = {name: value for name, value in self.options.items() if name != "image_size"}
        config |= {"train_images": self.train_images} if self.train_images else {}
        config |= {"data_options": options} if options else {}
        return config | {name: value for name, value in self._settings(values).items() if value is not None}

    def _settings(self, values):
        """Returns the settings of a trial's run, by the names of `Run`'s arguments; None leaves the default."""
        return dict(
            architecture=self._changes(values) or None,
            seed=self.seed,
            mixed_precision=self.mixed_precision or None,
            jit_compile=self.jit_compile,
            keep_best=(self.recipe_of(values).ema_momentum is None) or None,  # averaged weights are those of the last epoch
            patience=self.patience,
        )

    def describe(self) -> dict[str, Any]:
        """Returns what tells this search from others, as a dict for JSON."""
        data = {"images": self.images, "image_shape": self.image_shape, "class_names": self.class_names}
        recipe = {f"recipe.{name}": value for name, value in dataclasses.asdict(self.recipe).items()}
        settings = {"architecture": self.architecture, "patience": self.patience, "mixed_precision": self.mixed_precision}
        return {"space": self.rows, "seed": self.seed, **data, **self.settings, **self.budget, **settings, **recipe}

    def _bases(self):
        """Returns all arguments of each model of the space."""
        if not isinstance(self.model, str):
            if fixed := [name for name in self.rows if name in ARCHITECTURE and name not in ("patch_size", "pooling", "frozen_blocks")]:
                raise ValueError(f"A model with weights has its dimensions. Received: the parameter {fixed[0]}")
        known = dict(num_classes=len(self.class_names), input_shape=self.image_shape, include_top=True)
        return {name: ViTConfig.of(name, **self.architecture, **known).to_dict() for name in self.rows.get("model", (self.model,))}

    def _changes(self, values):
        """Returns the arguments of `VisionTransformer` by which a trial's model differs from its preset."""
        values = self.values(values)
        return self.architecture | arguments_of(values, ViTConfig.of(values.get("model", self.model), **self.architecture).to_dict())

    def _check_training(self):
        """Tries every value of the recipe, so that none fails in a trial."""
        for name, row in self.rows.items():
            for value in (row["low"], row["high"]) if isinstance(row, dict) else row:
                if name in TRAINING:
                    dataclasses.replace(self.recipe, **{name: value})
                if name == "augmentation" or name in AUGMENTATION:
                    named_augmentation(value if name == "augmentation" else self.recipe.augmentation + addition(name, value))
                if name == "batch_size" and value > self.images:
                    raise ValueError(f"`batch_size` must be at most the {self.images} training images. Received: batch_size={value}")


def addition(name: str, value: float) -> str:
    return f"+{name}({value:.4f}".rstrip("0").rstrip(".") + ")"


def take_over(old: pathlib.Path, new: pathlib.Path):
    """Lets the trial in the folder `new` go on from the checkpoint of that in `old`."""
    if not any((new / CHECKPOINTS).glob("step-*.npz")):
        (new / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        best = [old / BEST] * (old / BEST).exists()
        for path in best + sorted((old / CHECKPOINTS).glob("step-*.npz"))[-1:]:
            with replacing(new / CHECKPOINTS / path.name) as temporary:
                shutil.copyfile(path, temporary)
