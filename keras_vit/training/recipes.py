"""Training recipes as data: a recipe says how a paper, or a measurement of ours, trained; `compile` applies it to a model."""

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train a Vision Transformer. Change single values with `dataclasses.replace`.

    The learning rate rises from zero over `warmup_epochs` and then falls to zero along a cosine.

    Args:
        source: str. Where the values come from.
        epochs: int. Passes over the training images.
        batch_size: int. Images a step.
        optimizer: str. Name of a class of `keras.optimizers`.
        learning_rate: float. The highest learning rate, reached at the end of the warm-up.
        warmup_epochs: float.
        weight_decay: float. Decoupled, multiplied by the learning rate, and applied to kernels only: not to biases, norms, layer
            scales, position embeddings and tokens.
        clip_norm: float or None. Largest norm of all gradients together.
        label_smoothing: float in [0, 1).
        dropout_rate: float in [0, 1). For the model's argument of this name.
        drop_path_rate: float in [0, 1). For the model's argument of this name.
        augmentation: str. Name of a row of `keras_vit.data.AUGMENTATIONS`.

    Example:
    >>> import keras_vit
    >>> recipe = RECIPES["small_data"]
    >>> model = keras_vit.ViTMicro4(num_classes=10, drop_path_rate=recipe.drop_path_rate)
    >>> recipe.compile(model, steps_per_epoch=20)
    """

    source: str
    epochs: int
    batch_size: int
    optimizer: str = "AdamW"
    learning_rate: float = 1e-3
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    augmentation: str = "none"

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}")
        if not self.learning_rate > 0.0:
            raise ValueError(f"`learning_rate` must be greater than 0. Received: learning_rate={self.learning_rate}")

    def compile(self, model, steps_per_epoch, **kwargs):
        """Compiles `model` with the recipe's optimizer and loss, and the metric accuracy.

        Args:
            model: a keras.Model that gives class probabilities. Labels are one-hot.
            steps_per_epoch: int. Steps in which an epoch passes over the training images.
            **kwargs: passed to `model.compile`, such as `jit_compile`.
        """
        model.compile(
            optimizer=self.build_optimizer(model, steps_per_epoch),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=self.label_smoothing),
            metrics=["accuracy"],
            **kwargs,
        )

    def build_optimizer(self, model, steps_per_epoch):
        """Returns the recipe's optimizer for the variables of `model`."""
        steps, warmup_steps = self.epochs * steps_per_epoch, round(self.warmup_epochs * steps_per_epoch)
        warmup_steps = min(warmup_steps, steps - 1)
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else self.learning_rate,
            decay_steps=steps - warmup_steps,
            warmup_target=self.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
        optimizer = getattr(keras.optimizers, self.optimizer)(
            learning_rate=schedule, weight_decay=self.weight_decay, global_clipnorm=self.clip_norm
        )
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
        return optimizer


RECIPES = {
    "small_data": Recipe(
        source="tuned on the 1,797 digits of scikit-learn",
        epochs=50,
        batch_size=32,
        learning_rate=1.5e-3,
        warmup_epochs=3,
        weight_decay=0.05,
        clip_norm=1.0,
        label_smoothing=0.1,
        drop_path_rate=0.1,
        augmentation="digits",
    ),
}
