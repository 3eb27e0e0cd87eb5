"""Training recipes as data: a recipe says how a paper, or a measurement of ours, trained; `compile` applies it to a model."""

import dataclasses
import numbers
import typing

import keras

from keras_vit import zoo
from keras_vit.layers import checks
from keras_vit.names import Table
from keras_vit.training.losses import Accuracy, BinaryCrossentropy, CategoricalCrossentropy
from keras_vit.training.optimizers import OPTIMIZERS
from keras_vit.training.schedules import SCHEDULES
from keras_vit.training.trainable import add_lora, freeze

LOSSES = {"softmax": CategoricalCrossentropy, "sigmoid": BinaryCrossentropy}
ABSTRACT = {int: numbers.Integral, float: numbers.Real}  # what a field of this type takes: also NumPy's numbers
RATES = ("dropout_rate", "drop_path_rate", "patch_dropout_rate")  # arguments of the model that a recipe sets


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train a Vision Transformer. Change single values with `dataclasses.replace`.

    The learning rate rises from zero during the warm-up, and then falls to zero.

    Args:
        source: str. Where the values come from.
        batch_size: int. Images a step.
        epochs: int or None. Passes over the training images.
        steps: int or None. Steps in all, in place of `epochs`.
        optimizer: "AdamW", "SGD" (with momentum 0.9), "Lamb" or "Muon", those of `keras_vit.training`.
        learning_rate: float. The highest learning rate, reached at the end of the warm-up.
        learning_rate_images: int or None. The images a step that `learning_rate` is for: it is multiplied by
            `batch_size / learning_rate_images`. None: it is for any batch.
        schedule: "cosine", "linear" or "constant".
        warmup_epochs: float.
        warmup_steps: int. Taken if `warmup_epochs` is 0.
        weight_decay: float. Decoupled, multiplied by the learning rate, and applied to kernels only: not to biases, norms, layer
            scales, position embeddings and tokens.
        clip_norm: float or None. Largest norm of all gradients together.
        layer_decay: float in (0, 1] or None. See `keras_vit.training.AdamW`.
        ema_momentum: float in [0, 1) or None. The weights that `fit` leaves are their exponential moving average.
        loss: "softmax", or "sigmoid" for classes that do not exclude each other, and for models that are trained so.
        label_smoothing: float in [0, 1).
        dropout_rate: float in [0, 1). For the model's argument of this name.
        drop_path_rate: float in [0, 1). For the model's argument of this name.
        patch_dropout_rate: float in [0, 1). For the model's argument of this name.
        augmentation: str, name of a row of `keras_vit.data.AUGMENTATIONS`; or an `Augmentation`.
        frozen_blocks: None, int, or "all". What is not trained, see `keras_vit.training.freeze`.
        lora_rank: int or None. Low-rank updates of the attention kernels are trained in their place, see `keras_vit.training.add_lora`.
        head_epochs: int. Epochs in which the head is trained alone, before: see `phases`.

    Raises:
        ValueError: if a number is out of range or a name unknown.

    Example:
    >>> import keras_vit
    >>> recipe = RECIPES["small_data"]
    >>> model = keras_vit.ViTMicro4(num_classes=10, drop_path_rate=recipe.drop_path_rate)
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

    def length(self, steps_per_epoch):
        """Returns (epochs, steps of an epoch) for `fit`, given the steps in which it passes over the training images once.

        A recipe in steps has as many epochs as come nearest to whole passes.
        """
        if self.epochs is not None:
            return self.epochs, steps_per_epoch
        epochs = max(1, round(self.steps / steps_per_epoch))
        return epochs, max(1, round(self.steps / epochs))

    def phases(self):
        """Returns the recipes that training consists of, one `fit` each: with `head_epochs` a linear probe comes first."""
        if not self.head_epochs:
            return (self,)
        same = {name: getattr(self, name) for name in ("batch_size", "loss", "augmentation", *RATES)}
        head = dataclasses.replace(LINEAR_PROBE, epochs=self.head_epochs, **same)
        return head, dataclasses.replace(self, head_epochs=0)

    @property
    def model_arguments(self):
        """The arguments of `VisionTransformer` that the recipe sets, as a dict: its dropout rates and the activation of its loss.

        Example:
        >>> model = keras_vit.ViTMicro4(num_classes=10)
        >>> model = model.adapt(**keras_vit.training.RECIPES["small_data"].model_arguments)
        """
        return {"classifier_activation": self.loss} | {name: getattr(self, name) for name in RATES}

    def build(self, model, **arguments):
        """Builds the model that the recipe trains: with its dropout rates and the activation that fits its loss.

        Args:
            model: name of a preset, such as "ViTB16", or a `keras_vit.VisionTransformer`, whose weights the new model takes over.
            **arguments: further arguments: of the preset's function, such as `weights` and `num_classes`, or of `model.adapt`.

        Returns:
            A `keras_vit.VisionTransformer`, for `compile`.

        Raises:
            ValueError: if the recipe sets one of `arguments`, or the model refuses one.

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

    def compile(self, model, steps_per_epoch, accumulation_steps=1, **kwargs):
        """Freezes what the recipe freezes, and compiles `model` with its optimizer and loss, and the metric accuracy.

        Args:
            model: a `keras_vit.VisionTransformer` that `build` has made, or one with the same `model_arguments`; or a
                `keras_vit.training.Distillation` of one.
            steps_per_epoch: int. Steps in which `fit` passes over the training images, each of `batch_size` images.
            accumulation_steps: int. Micro-batches that each device splits its batch into, so that the memory of one is enough: the
                model's `accumulation_steps`. On TensorFlow.
            **kwargs: passed to `model.compile`, such as `jit_compile`.

        Labels are class numbers `(batch,)`, or `(batch, classes)`: one-hot, mixed or, with the loss "sigmoid", any number of ones.

        Raises:
            ValueError: if the model's activation does not fit the loss, or its dropout rates are not the recipe's.
        """
        if accumulation_steps > 1 and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "Batches are computed in parts on TensorFlow. Elsewhere give `fit` the parts, and the optimizer "
                "`gradient_accumulation_steps`. "
                f"Received: accumulation_steps={accumulation_steps}, the backend {keras.backend.backend()!r}"
            )
        student = getattr(model, "student", model)
        self._check_model(student)
        model.accumulation_steps = accumulation_steps
        freeze(student, self.frozen_blocks)
        if self.lora_rank:
            add_lora(student, self.lora_rank)
        # The sum over the classes, as the papers have it, where Keras takes the mean.
        weights = [float(student.output_shape[-1])] if self.loss == "sigmoid" else None
        metrics = kwargs.pop("metrics", ["accuracy"])
        if isinstance(metrics, (list, tuple)):  # Keras's own accuracy takes one form of labels alone
            metrics = [Accuracy() if metric in ("accuracy", "acc") else metric for metric in metrics]
        model.compile(
            optimizer=self.build_optimizer(steps_per_epoch),
            loss=LOSSES[self.loss](label_smoothing=self.label_smoothing),
            loss_weights=weights,
            metrics=metrics,
            **kwargs,
        )

    def _check_model(self, model):
        """Refuses a model that `build` would change."""
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

    def build_optimizer(self, steps_per_epoch):
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


def _vit(data, epochs, learning_rate, **values):
    source = f"Dosovitskiy et al., An Image is Worth 16x16 Words (2020), table 3: {data}"
    more = dict(warmup_steps=10_000, clip_norm=1.0, schedule="linear", augmentation="inception")
    return Recipe(source, 4096, epochs, learning_rate=learning_rate, **more | values)


def _vit_finetune(data, steps, learning_rate, warmup_steps=500):
    return Recipe(
        f"Dosovitskiy et al., An Image is Worth 16x16 Words (2020), table 4 and B.1.1, at 384 px: {data}",
        batch_size=512,
        steps=steps,
        optimizer="SGD",
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        clip_norm=1.0,
        augmentation="finetune",
    )


def _augreg(augmentation):
    return Recipe(
        "Steiner et al., How to train your ViT? (2022), section 3; configs/vit_i1k.py of big_vision",
        batch_size=4096,
        epochs=300,
        warmup_steps=10_000,
        weight_decay=0.1,
        clip_norm=1.0,
        loss="sigmoid",
        augmentation=augmentation,
    )


def _deit3(size, learning_rate, drop_path_rate):
    return Recipe(
        f"Touvron et al., DeiT III (2022), table 1, ImageNet-1k; README_revenge.md of facebookresearch/deit: ViT-{size}",
        batch_size=2048,
        epochs=800,
        optimizer="Lamb",
        learning_rate=learning_rate,
        warmup_epochs=5,
        weight_decay=0.05,
        # Nor is there a clip: theirs, at 1, never acts on a loss that is the mean over 1,000 classes. Lamb does not see the factor.
        loss="sigmoid",
        drop_path_rate=drop_path_rate,
        augmentation="deit3",
    )


def _deit3_21k(size, drop_path_rate):
    return Recipe(
        f"Touvron et al., DeiT III (2022), table 1, ImageNet-21k; README_revenge.md of facebookresearch/deit: ViT-{size}",
        batch_size=2048,
        epochs=240,
        optimizer="Lamb",
        learning_rate=1e-3,
        warmup_epochs=5,
        weight_decay=0.02,
        clip_norm=1.0,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation="deit3_21k",
    )


def _mae_finetune(size, epochs, learning_rate, layer_decay, drop_path_rate):
    return Recipe(
        f"He et al., Masked Autoencoders (2021), A.1; FINETUNE.md of facebookresearch/mae: ViT-{size}",
        batch_size=1024,
        epochs=epochs,
        learning_rate=learning_rate,
        learning_rate_images=256,
        warmup_epochs=5,
        weight_decay=0.05,
        layer_decay=layer_decay,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation="mae",
    )


def _beit_finetune(size, epochs, batch_size, learning_rate, warmup_epochs, weight_decay, layer_decay, drop_path_rate, augmentation):
    return Recipe(
        f"Bao et al., BEiT (2022); beit/get_started_for_image_classification.md of microsoft/unilm: BEiT-{size}",
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation=augmentation,
    )


DEIT = Recipe(
    "Touvron et al., Training data-efficient image transformers (2021), table 9; main.py of facebookresearch/deit",
    batch_size=1024,
    epochs=300,
    learning_rate=5e-4,
    learning_rate_images=512,
    warmup_epochs=5,
    weight_decay=0.05,
    ema_momentum=0.99996,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="deit",
)
FASHION_MNIST = Recipe(
    "chosen on Fashion-MNIST for 40 minutes of a processor core",
    batch_size=128,
    epochs=12,
    optimizer="Muon",
    learning_rate=2e-3,
    warmup_epochs=0.25,
    weight_decay=0.05,
    clip_norm=1.0,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="fashion_mnist",
)
FINETUNE = Recipe(
    "AdamW with layer-wise decay as in He et al., Masked Autoencoders (2021), A.1; learning rate chosen on 1,000 images of Fashion-MNIST",
    batch_size=32,
    epochs=10,
    learning_rate=3e-4,
    warmup_epochs=1,
    weight_decay=0.05,
    clip_norm=1.0,
    layer_decay=0.75,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="finetune",
)

RECIPES = Table(
    "recipe",
    {
        # For a data set and a machine of one's own.
        "small_data": Recipe(
            "tuned on the 1,797 digits of scikit-learn",
            batch_size=32,
            epochs=50,
            learning_rate=1.5e-3,
            warmup_epochs=3,
            weight_decay=0.05,
            clip_norm=1.0,
            label_smoothing=0.1,
            drop_path_rate=0.1,
            augmentation="digits",
        ),
        "fashion_mnist": FASHION_MNIST,
        "fashion_mnist_plain": dataclasses.replace(
            FASHION_MNIST,
            epochs=26,
            drop_path_rate=0.0,
            patch_dropout_rate=0.5,  # nearly twice the images in the same time; more regularisation than this costs
            augmentation="flip",
            source=FASHION_MNIST.source + ", for models without a convolutional stem",
        ),
        "finetune": FINETUNE,
        "linear_probe": LINEAR_PROBE,
        "head_then_all": dataclasses.replace(
            FINETUNE,
            head_epochs=5,
            source="Kumar et al., Fine-Tuning can Distort Pretrained Features (2022): the head first; then as finetune",
        ),
        "lora": dataclasses.replace(
            FINETUNE,
            lora_rank=8,
            learning_rate=3e-3,
            layer_decay=None,
            weight_decay=0.0,
            source="Hu et al., LoRA (2022), on the attention kernels; else as finetune",
        ),
        # The papers'.
        "vit_imagenet1k": _vit("ImageNet-1k", 300, 3e-3, schedule="cosine", weight_decay=0.3, dropout_rate=0.1),
        "vit_imagenet21k_b": _vit("ImageNet-21k, B", 90, 1e-3, weight_decay=0.03, dropout_rate=0.1),
        "vit_imagenet21k_l": _vit("ImageNet-21k, L (also 90 epochs)", 30, 1e-3, weight_decay=0.03, dropout_rate=0.1),
        "vit_jft_b": _vit("JFT-300M, B and R50+B", 7, 8e-4, weight_decay=0.1),
        "vit_jft_l32": _vit("JFT-300M, L/32", 7, 6e-4, weight_decay=0.1),
        "vit_jft_l16": _vit("JFT-300M, L/16", 14, 4e-4, weight_decay=0.1),
        "vit_jft_h14": _vit("JFT-300M, H/14", 14, 3e-4, weight_decay=0.1),
        "vit_finetune_imagenet": _vit_finetune("ImageNet", 20_000, 0.03),
        "vit_finetune_cifar": _vit_finetune("CIFAR-10 and CIFAR-100", 10_000, 0.01),
        "vit_finetune_pets": _vit_finetune("Pets and Flowers", 500, 0.01, warmup_steps=100),
        "vit_finetune_vtab": _vit_finetune("VTAB", 2_500, 0.01),
        "augreg_none": _augreg("inception"),
        **{f"augreg_{name}": _augreg(name) for name in ("light1", "light2", "medium1", "medium2", "strong1", "strong2")},
        "augreg_finetune": dataclasses.replace(
            _vit_finetune("", 2_500, 0.003, warmup_steps=200),
            source="Steiner et al., How to train your ViT? (2022), table 4: of its learning rates, 0.001 to 0.01, the middle one",
        ),
        "better_plain": Recipe(
            "Beyer et al., Better plain ViT baselines for ImageNet-1k (2022); configs/vit_s16_i1k.py of big_vision; also 150, 300 epochs",
            batch_size=1024,
            epochs=90,
            warmup_steps=10_000,
            weight_decay=0.1,
            clip_norm=1.0,
            augmentation="better_plain",
        ),
        "deit": DEIT,
        "deit_384": dataclasses.replace(
            DEIT,
            epochs=30,
            batch_size=512,
            learning_rate=5e-6,
            learning_rate_images=512,
            weight_decay=1e-8,
            source=DEIT.source + ": 384 px",
        ),
        "deit3_s": _deit3("S", 4e-3, 0.05),
        "deit3_b": _deit3("B, at 192 px", 3e-3, 0.2),
        "deit3_l": _deit3("L, at 192 px", 3e-3, 0.45),
        "deit3_h": _deit3("H, at 160 px", 3e-3, 0.6),
        "deit3_finetune_b": Recipe(
            "README_revenge.md of facebookresearch/deit: from 192 to 224 px, ViT-B; L with drop path 0.45, H with 0.55",
            batch_size=512,
            epochs=20,
            learning_rate=1e-5,
            warmup_epochs=5,
            weight_decay=0.1,
            label_smoothing=0.1,
            drop_path_rate=0.2,
            augmentation="mae",
        ),
        "deit3_21k_s": _deit3_21k("S", 0.05),
        "deit3_21k_b": _deit3_21k("B", 0.1),
        "deit3_21k_l": _deit3_21k("L", 0.3),
        "deit3_21k_finetune_b": dataclasses.replace(
            _deit3_21k("B, then on ImageNet-1k; S with drop path 0.05, L with 0.4", 0.15), epochs=50, learning_rate=3e-4
        ),
        "mae_finetune_b": _mae_finetune("B", 100, 5e-4, 0.65, 0.1),
        "mae_finetune_l": _mae_finetune("L", 50, 1e-3, 0.75, 0.2),
        "mae_finetune_h": _mae_finetune("H", 50, 1e-3, 0.75, 0.3),
        "beit_finetune_b": _beit_finetune("B, self-supervised", 100, 1024, 4e-3, 20, 0.05, 0.65, 0.1, "mae"),
        "beit_finetune_l": _beit_finetune("L, self-supervised", 50, 1024, 1e-3, 5, 0.05, 0.75, 0.2, "mae"),
        "beit22k_finetune_b": _beit_finetune("B, fine-tuned on ImageNet-22k before", 30, 512, 2e-5, 5, 1e-8, 0.85, 0.1, "beit"),
        "beit22k_finetune_l": _beit_finetune("L, fine-tuned on ImageNet-22k before", 30, 512, 2e-5, 5, 1e-8, 0.9, 0.4, "beit"),
    },
)
