"""A Vision Transformer and its recipe as a search space of Keras Tuner."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile

import keras
import keras_tuner

from keras_vit import zoo
from keras_vit.config import ViTConfig
from keras_vit.data import SOURCES, load
from keras_vit.data.augmentation import named_augmentation
from keras_vit.files import replacing
from keras_vit.names import choose
from keras_vit.presets import preset
from keras_vit.training import RECIPES, Checkpoints, Recipe, accelerated, check_memory
from keras_vit.tuning.spaces import ARCHITECTURE, AUGMENTATION, TRAINING, architectures, arguments_of, open_space
from keras_vit.tuning.study import HISTORY, write_json

OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")


class ViTHyperModel(keras_tuner.HyperModel):
    """The search space of a Vision Transformer, for every tuner of Keras Tuner.

    A trial trains as `keras-vit train --config` with `config(values)` does, to the bit. It saves a checkpoint each epoch in its folder: a
    trial that is tried again goes on from there, and so does one that Hyperband promotes.

    What an architecture consists of is one parameter, `architecture`, whose values are the combinations that can be built and meet
    the budget: dimensions that heads divide, patches that divide the image. No other is ever sampled.

    Args:
        data: a data source, as `keras_vit.data.load` takes it.
        space: name of a row of `SPACES`, or a dict, see `keras_vit.tuning.open_space`.
        model: name of a preset, or a `VisionTransformer` with the weights that trials begin with. What the space does not change.
        recipe: name of a row of `RECIPES`, or a `Recipe`, in epochs. What the space does not change.
        max_parameters: int or None. Largest number of parameters.
        max_macs: int or None. Largest number of multiply-adds for an image.
        patience: int or None. A trial ends when `val_accuracy` has not risen for so many epochs.
        architecture: dict of further arguments of `VisionTransformer`, or None.
        image_size: int or None for the source's, or the model's.
        seed: int. Of data, weights and training, the same for all trials.
        mixed_precision: bool. Computes in bfloat16.
        jit_compile: bool or None, as `compile` takes it; None is Keras's default.
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
        data,
        space="from_scratch",
        model="ViTMicro4",
        recipe="small_data",
        max_parameters=None,
        max_macs=None,
        patience=None,
        architecture=None,
        image_size=None,
        seed=0,
        mixed_precision=False,
        jit_compile=None,
        settings=None,
        **options,
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
        self.data, self.options = data, options | ({} if image_size is None else {"image_size": image_size})
        found = self._load(1, "none")
        self.class_names, self.image_shape, self.images = found.class_names, found.image_shape, found.sizes["train"]
        if len(self.class_names) < 2:
            raise ValueError(f"The data must have two classes or more. Received: {', '.join(self.class_names)}")
        self.choices = architectures(self.rows, self._bases(), max_parameters, max_macs)
        self.budget = {"max_parameters": max_parameters, "max_macs": max_macs}
        self._check_training()

    @property
    def batch_sizes(self):
        row = self.rows.get("batch_size", (self.recipe.batch_size,))
        return range(row["low"], row["high"] + 1) if isinstance(row, dict) else row

    def declare_hyperparameters(self, hp):
        if len(self.choices) > 1:
            hp.Choice("architecture", [json.dumps(choice) for choice in self.choices])
        for name, row in self.rows.items():
            if name not in ARCHITECTURE:
                if isinstance(row, dict):
                    whole = isinstance(row["low"], int) and isinstance(row["high"], int)
                    (hp.Int if whole else hp.Float)(name, row["low"], row["high"], sampling="log" if row.get("log") else "linear")
                else:
                    hp.Choice(name, list(row))

    def build(self, hp):
        """Returns the model of a trial, compiled."""
        self.declare_hyperparameters(hp)
        keras.utils.set_random_seed(self.seed)
        recipe, changes = self.recipe_of(hp.values), self._arguments(hp.values)
        name = self.values(hp.values).get("model", self.model)
        model = zoo.create(name, **changes) if isinstance(name, str) else name.adapt(**changes)
        options = {} if self.jit_compile is None else {"jit_compile": self.jit_compile}
        recipe.compile(model, max(1, self.images // recipe.batch_size), **options)
        return model

    def fit(self, hp, model, *args, callbacks=(), verbose=0, **kwargs):
        """Trains the model of a trial, from its newest checkpoint if there is one. The data are the hypermodel's own."""
        if args:
            raise keras_tuner.errors.FatalValueError("The data are given to ViTHyperModel, not to `search`")
        recipe = self.recipe_of(hp.values)
        if not accelerated():
            check_memory(model, recipe.batch_size, recipe.optimizer, recipe.ema_momentum is not None)
        data = self._load(recipe.batch_size, recipe.augmentation)
        epochs = hp.values.get("tuner/epochs", recipe.epochs)
        place = next((callback for callback in callbacks if hasattr(callback, "tuner")), None)
        with contextlib.ExitStack() as stack:
            if place and place.tuner.executions_per_trial == 1:
                folder = pathlib.Path(place.tuner.get_trial_dir(place.trial.trial_id))
                if "tuner/trial_id" in hp.values:
                    take_over(pathlib.Path(place.tuner.get_trial_dir(hp.values["tuner/trial_id"])), folder)
            else:  # several runs of one trial each begin anew
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            checkpoints = Checkpoints(folder / "checkpoints", keep=1)
            batches = checkpoints.resume(data.train_from)

            def after_epoch(epoch, logs):
                write_json(checkpoints.history, folder / HISTORY)
                if self._is_stale(checkpoints.history):
                    model.stop_training = True

            return model.fit(
                batches,
                steps_per_epoch=data.steps_per_epoch,
                epochs=checkpoints.epoch if self._is_stale(checkpoints.history) else epochs,
                validation_data=data.validation,
                callbacks=[*callbacks, checkpoints, keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)],
                shuffle=False,  # the data comes shuffled
                verbose=verbose,
            )

    def values(self, values):
        """Returns the parameters of a trial by name, those of the architecture among them.

        Args:
            values: dict of the values of hyperparameters, such as `trial.hyperparameters.values`.
        """
        choice = json.loads(values["architecture"]) if "architecture" in values else self.choices[0]
        return choice | {name: values[name] for name in self.rows if name not in ARCHITECTURE}

    def recipe_of(self, values):
        """Returns the `Recipe` of a trial. Arguments as in `values`."""
        values = self.values(values)
        changes = {name: value for name, value in values.items() if name in TRAINING}
        if "frozen_blocks" in values:
            changes["frozen_blocks"] = None if values["frozen_blocks"] == "none" else values["frozen_blocks"]
        added = "".join(addition(name, values[name]) for name in AUGMENTATION if values.get(name))
        changes["augmentation"] = changes.get("augmentation", self.recipe.augmentation) + added
        return dataclasses.replace(self.recipe, **changes)

    def config(self, values):
        """Returns the config of a trial, which `keras-vit train --config` takes. Arguments as in `values`."""
        training = {name: value for name, value in dataclasses.asdict(self.recipe_of(values)).items() if value is not None}
        changed = self._changes(values)
        model = {"model": self.values(values)["model"]} if "model" in self.values(values) else {}
        config = self.settings | model | {"image_size": self.image_shape[0], "seed": self.seed, "training": training}
        options = {name: value for name, value in self.options.items() if name != "image_size"}
        config |= {"train_images": options.pop("train_images")} if options.get("train_images") else {}
        config |= {"data_options": options} if options else {}
        config |= {"architecture": changed} if changed else {}
        config |= {"mixed_precision": True} if self.mixed_precision else {}
        return config | ({} if self.jit_compile is None else {"jit_compile": self.jit_compile})

    def describe(self):
        """Returns what tells this search from others, as a dict for JSON."""
        data = {"images": self.images, "image_shape": self.image_shape, "class_names": self.class_names}
        recipe = {f"recipe.{name}": value for name, value in dataclasses.asdict(self.recipe).items()}
        settings = {"architecture": self.architecture, "patience": self.patience, "mixed_precision": self.mixed_precision}
        return {"space": self.rows, "seed": self.seed, **data, **self.settings, **self.budget, **settings, **recipe}

    def _load(self, batch_size, augmentation):
        preprocessing = None if isinstance(self.model, str) else self.model.preprocessing
        return load(self.data, batch_size, augmentation, seed=self.seed, preprocessing=preprocessing, **self.options)

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

    def _arguments(self, values):
        recipe = self.recipe_of(values)
        known = dict(
            num_classes=len(self.class_names),
            input_shape=self.image_shape,
            dropout_rate=recipe.dropout_rate,
            drop_path_rate=recipe.drop_path_rate,
            patch_dropout_rate=recipe.patch_dropout_rate,
            classifier_activation=recipe.loss,
        )
        return self._changes(values) | known | ({"dtype": "mixed_bfloat16"} if self.mixed_precision else {})

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

    def _is_stale(self, history):
        scores = [row["val_accuracy"] for row in history]
        return self.patience is not None and len(scores) - scores.index(max(scores)) > self.patience if scores else False


def addition(name, value):
    return f"+{name}({value:.4f}".rstrip("0").rstrip(".") + ")"


def take_over(old, new):
    """Lets the trial in the folder `new` go on from the checkpoint of that in `old`."""
    if not any((new / "checkpoints").glob("step-*.npz")):
        (new / "checkpoints").mkdir(parents=True, exist_ok=True)
        for path in sorted((old / "checkpoints").glob("step-*.npz"))[-1:]:
            with replacing(new / "checkpoints" / path.name) as temporary:
                shutil.copyfile(path, temporary)
