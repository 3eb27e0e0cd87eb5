"""Training recipes: the settings of a training run, which `build` and `compile` apply to a model."""

import dataclasses
import numbers
import typing
from typing import Any

import keras

from keras_vit import zoo
from keras_vit.layers import checks
from keras_vit.training.losses import Accuracy, BinaryCrossentropy, CategoricalCrossentropy
from keras_vit.training.optimizers import OPTIMIZERS
from keras_vit.training.schedules import SCHEDULES
from keras_vit.training.trainable import add_lora, freeze

LOSSES = {"softmax": CategoricalCrossentropy, "sigmoid": BinaryCrossentropy}
ABSTRACT = {int: numbers.Integral, float: numbers.Real}  # fields of these types accept NumPy's numbers, too
RATES = ("dropout_rate", "drop_path_rate", "patch_dropout_rate")  # arguments of the model that a recipe sets


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Holds the settings of a training run, as a paper states them. Change single values with `dataclasses.replace`.

    The learning rate rises linearly from zero in the warm-up, then follows `schedule`.

    Args:
        source: str. Paper or code that the values come from.
        batch_size: int. Images per step.
        epochs: int or None. Passes over the training images. Defaults to None.
        steps: int or None. Total number of steps, in place of `epochs`. Defaults to None.
        optimizer: str. "AdamW", "SGD" (with momentum 0.9), "Lamb" or "Muon" of `keras_vit.training`. Defaults to "AdamW".
        learning_rate: float. Highest learning rate, at the end of the warm-up. Defaults to 1e-3.
        learning_rate_images: int or None. Batch size that `learning_rate` is for: it is multiplied by
            `batch_size / learning_rate_images`. None means any batch size. Defaults to None.
        schedule: str. Learning rate after the warm-up: "cosine" or "linear" (falls to zero), or "constant". Defaults to "cosine".
        warmup_epochs: float. Length of the warm-up in epochs. Defaults to 0.0.
        warmup_steps: int. Length of the warm-up in steps, if `warmup_epochs` is 0. Defaults to 0.
        weight_decay: float. Decoupled, multiplied by the learning rate, and applied to kernels only: not to biases, norms, layer
            scales, position embeddings and tokens. Defaults to 0.0.
        clip_norm: float or None. Largest global norm of the gradients; None means no clipping. Defaults to None.
        layer_decay: float in (0, 1] or None. See `keras_vit.training.AdamW`. Defaults to None.
        ema_momentum: float in [0, 1) or None. Momentum of an exponential moving average of the weights, which takes the place of the
            weights at the end of `fit`. None means no average. Defaults to None.
        loss: str. "softmax" or "sigmoid". The latter is for images of several classes, and for recipes that use it with one class.
            Defaults to "softmax".
        label_smoothing: float in [0, 1). Share of each label that is spread over all classes. Defaults to 0.0.
        dropout_rate: float in [0, 1). The model's argument of this name. Defaults to 0.0.
        drop_path_rate: float in [0, 1). The model's argument of this name. Defaults to 0.0.
        patch_dropout_rate: float in [0, 1). The model's argument of this name. Defaults to 0.0.
        augmentation: str or Augmentation. Name of a row of `keras_vit.data.AUGMENTATIONS`, or an augmentation. Defaults to "none".
        frozen_blocks: int, "all" or None. Blocks that are not trained, see `keras_vit.training.freeze`. Defaults to None.
        lora_rank: int or None. Rank of the low-rank updates that are trained instead of the attention kernels, see
            `keras_vit.training.add_lora`. Defaults to None, no such updates.
        head_epochs: int. Epochs at the start that train only the head, see `phases`. Defaults to 0.

    Raises:
        ValueError: if a number is out of range or a name unknown.

    Example:
    >>> import keras_vit
    >>> recipe = keras_vit.training.RECIPES["small_data"]
    >>> model = recipe.build("ViTMicro4", num_classes=10)
    >>> recipe.compile(model, steps_per_epoch=20)
    """

    source: str
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    optimizer: str = "AdamW"
    learning_rate: float = 1e-3
    learning_rate_images: int | None = None
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    layer_decay: float | None = None
    ema_momentum: float | None = None
    loss: str = "softmax"
    label_smoothing: float = 0.0
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    patch_dropout_rate: float = 0.0
    augmentation: object = "none"
    frozen_blocks: int | str | None = None
    lora_rank: int | None = None
    head_epochs: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = typing.get_args(field.type) or (field.type,)
            if isinstance(value, bool) or not any(isinstance(value, ABSTRACT.get(kind, kind)) for kind in kinds):
                wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
                raise ValueError(
                    f"`{field.name}` must be {'an' if wanted[0] in 'aeiou' else 'a'} {wanted}. Received: {field.name}={value!r}"
                )
        checks.integer("batch_size", self.batch_size)
        for name in ("epochs", "steps", "lora_rank", "learning_rate_images"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name))
        checks.integer("head_epochs", self.head_epochs, least=0)
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"One of `epochs` and `steps` must be given. Received: epochs={self.epochs}, steps={self.steps}")
        if not self.learning_rate > 0.0:
            raise ValueError(f"`learning_rate` must be greater than 0. Received: learning_rate={self.learning_rate}")
        for name in ("weight_decay", "warmup_epochs", "warmup_steps"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"`{name}` must be at least 0. Received: {name}={getattr(self, name)}")
        if self.ema_momentum is not None and not 0.0 < self.ema_momentum < 1.0:
            raise ValueError(f"`ema_momentum` must lie in (0, 1). Received: ema_momentum={self.ema_momentum}")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ValueError(f"`clip_norm` must be greater than 0. Received: clip_norm={self.clip_norm}")
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"`layer_decay` must lie in (0, 1]. Received: layer_decay={self.layer_decay}")
        if isinstance(self.frozen_blocks, str):
            checks.one_of("frozen_blocks", self.frozen_blocks, ("all",))
        for name in ("label_smoothing", "dropout_rate", "drop_path_rate", "patch_dropout_rate"):
            checks.rate(name, getattr(self, name))
        for name, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            checks.one_of(name, getattr(self, name), table)

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        """Returns `(epochs, steps_per_epoch)` for `fit`.

        A recipe that is given in steps is divided into epochs that are as close as possible to one pass over the training images.

        Args:
            steps_per_epoch: int. Number of steps of one pass over the training images.
        """
        if self.epochs is not None:
            return self.epochs, steps_per_epoch
        epochs = max(1, round(self.steps / steps_per_epoch))
        return epochs, max(1, round(self.steps / epochs))

    def phases(self) -> "tuple[Recipe, ...]":
        """Returns one recipe for each `fit` that training consists of. With `head_epochs`, the first is a linear probe."""
        if not self.head_epochs:
            return (self,)
        same = {name: getattr(self, name) for name in ("batch_size", "loss", "augmentation", *RATES)}
        head = dataclasses.replace(LINEAR_PROBE, epochs=self.head_epochs, **same)
        return head, dataclasses.replace(self, head_epochs=0)

    @property
    def model_arguments(self) -> dict:
        """The arguments of `VisionTransformer` that the recipe sets, as a dict: the dropout rates and the activation that fits its loss.

        Example:
        >>> model = keras_vit.ViTMicro4(num_classes=10)
        >>> model = model.adapt(**keras_vit.training.RECIPES["small_data"].model_arguments)
        """
        return {"classifier_activation": self.loss} | {name: getattr(self, name) for name in RATES}

    def build(self, model: str | keras.Model, **arguments: Any) -> keras.Model:
        """Builds the model that the recipe trains: with its dropout rates and the activation that fits its loss.

        Args:
            model: name of a preset, such as "ViTB16", or a `keras_vit.VisionTransformer`, whose weights the new model starts with.
            **arguments: further arguments of the preset's function, such as `weights` and `num_classes`, or of `model.adapt`.

        Returns:
            A `keras_vit.VisionTransformer`, ready for `compile`.

        Raises:
            ValueError: if the recipe sets one of `arguments`, or the model does not accept one.

        Example:
        >>> recipe = keras_vit.training.RECIPES["small_data"]
        >>> model = recipe.build("ViTMicro4", num_classes=10)
        >>> recipe.compile(model, steps_per_epoch=20)
        """
        for name in arguments:
            if name in self.model_arguments:
                change = "loss" if name == "classifier_activation" else name
                raise ValueError(
                    f"The recipe sets `{name}`: change it there, by `dataclasses.replace(recipe, {change}=...)`. "
                    f"Received: {name}={arguments[name]!r}"
                )
        arguments |= self.model_arguments
        return zoo.create(model, **arguments) if isinstance(model, str) else model.adapt(**arguments)

    def compile(self, model: keras.Model, steps_per_epoch: int, accumulation_steps: int = 1, **kwargs: Any) -> None:
        """Compiles `model` with the recipe's optimizer and loss, and the metric accuracy. Layers that the recipe freezes are frozen first.

        Args:
            model: a `keras_vit.VisionTransformer` made by `build`, or one with the same `model_arguments`; or a
                `keras_vit.training.Distillation` of one.
            steps_per_epoch: int. Number of steps of one pass over the training images, each of `batch_size` images.
            accumulation_steps: int. Number of micro-batches that each device splits its batch into, to save memory (gradient
                accumulation). It needs TensorFlow. Defaults to 1.
            **kwargs: further arguments of `model.compile`, such as `jit_compile`.

        Labels are class numbers `(batch,)`, or `(batch, classes)`: one-hot, mixed or, with the loss "sigmoid", any number of ones.

        Raises:
            ValueError: if the model's activation does not fit the loss, or its dropout rates are not the recipe's.
        """
        if accumulation_steps > 1 and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "`accumulation_steps` needs TensorFlow. On other backends give `fit` smaller batches, and the optimizer "
                "`gradient_accumulation_steps`. "
                f"Received: accumulation_steps={accumulation_steps}, the backend {keras.backend.backend()!r}"
            )
        student = getattr(model, "student", model)
        self._check_model(student)
        model.accumulation_steps = accumulation_steps
        freeze(student, self.frozen_blocks)
        if self.lora_rank:
            add_lora(student, self.lora_rank)
        # The papers sum the sigmoid loss over the classes; Keras takes the mean.
        weights = [float(student.output_shape[-1])] if self.loss == "sigmoid" else None
        metrics = kwargs.pop("metrics", ["accuracy"])
        if isinstance(metrics, (list, tuple)):  # Keras's accuracy accepts only one form of labels
            metrics = [Accuracy() if metric in ("accuracy", "acc") else metric for metric in metrics]
        model.compile(
            optimizer=self.build_optimizer(steps_per_epoch),
            loss=LOSSES[self.loss](label_smoothing=self.label_smoothing),
            loss_weights=weights,
            metrics=metrics,
            **kwargs,
        )

    def _check_model(self, model):
        """Raises a ValueError for a model that `build` would change."""
        config = model.get_config()
        if not config.get("include_top"):
            raise ValueError(
                f"A recipe trains a VisionTransformer with a head; `recipe.build(model, num_classes=...)` adds one. Received: {model}"
            )
        for name, value in self.model_arguments.items():
            found = config[name]
            if found != value:
                change = "loss" if name == "classifier_activation" else name
                other = f", or train this one by `dataclasses.replace(recipe, {change}={found!r})`"
                raise ValueError(
                    f"The model's `{name}` must be the recipe's, {value!r}: build it by `recipe.build(model)`"
                    + (other if name in RATES or found in LOSSES else "")
                    + f". Received: {name}={found!r}"
                )

    def build_optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Returns the recipe's optimizer."""
        epochs, steps_per_epoch = self.length(steps_per_epoch)
        steps = epochs * steps_per_epoch
        warmup_steps = min(round(self.warmup_epochs * steps_per_epoch) or self.warmup_steps, steps - 1)
        rate = self.learning_rate * (self.batch_size / self.learning_rate_images if self.learning_rate_images else 1.0)
        arguments = {"SGD": dict(momentum=0.9), "Lamb": dict(epsilon=1e-6)}.get(self.optimizer, dict(epsilon=1e-8))
        return OPTIMIZERS[self.optimizer](
            learning_rate=SCHEDULES[self.schedule](rate, steps, warmup_steps),
            weight_decay=self.weight_decay,
            global_clipnorm=self.clip_norm,
            layer_decay=self.layer_decay,
            use_ema=self.ema_momentum is not None,
            ema_momentum=self.ema_momentum or 0.99,
            **arguments,
        )


LINEAR_PROBE = Recipe(
    "head alone, as He et al., Masked Autoencoders (2021), A.1, but with AdamW",
    batch_size=64,
    epochs=20,
    augmentation="finetune",
    frozen_blocks="all",
)
