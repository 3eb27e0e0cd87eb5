"""Augmentation policies. Each is a pure function of the images and their seeds, so that a repeated step sees the same images.

Keras's random layers cannot guarantee this: in a parallel map, their draws depend on which batch comes first.
"""

import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_vit.data.augmentation.batches import affine, cutmix, cutout, mirror, mixup, mixup_or_cutmix, pad_and_crop, whole_labels
from keras_vit.data.augmentation.crops import inception_crop, random_resized_crop, resize_and_crop, simple_random_crop
from keras_vit.data.augmentation.images import color_jitter, flip, random_erasing, three_augment
from keras_vit.data.augmentation.randaugment import TIMM, rand_augment
from keras_vit.layers import checks
from keras_vit.names import Table, choose

log = logging.getLogger("keras_vit")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """An augmentation policy: functions that are applied to training images, in the order of the arguments.

    Args:
        source: str. Where the policy is published.
        crop: function `(image, seed, size) -> image` of `keras_vit.data.augmentation.crops`, or None to resize images as for evaluation.
            Defaults to None.
        image: tuple of functions `(image, seed) -> image` of a single uint8 image. Defaults to ().
        batch: tuple of functions `(images, labels, seeds) -> (images, labels)` of a float32 batch. Labels are one-hot. If no function
            changes them, `data.train` yields class indices. Defaults to ().
        repeats: int. Repeated augmentation: a batch holds this many versions of each image, and an epoch covers that many times fewer
            different images. Defaults to 1.

    Example:
    >>> mine = Augmentation("of my own", crop=random_resized_crop(area=(0.5, 1.0)), image=(flip(), rand_augment(1, 5)), batch=(mixup(0.2),))
    >>> data = keras_vit.data.load("digits", augmentation=mine)
    """

    source: str
    crop: Callable | None = None
    image: tuple = ()
    batch: tuple = ()
    repeats: int = 1

    def __post_init__(self):
        checks.integer("repeats", self.repeats)


def augreg(magnitude: float | None = None, alpha: float = 0.0) -> Augmentation:
    return Augmentation(
        "Steiner et al., How to train your ViT? (2022), section 3.2; configs/vit_i1k.py of big_vision",
        crop=inception_crop(),
        image=(flip(),) if magnitude is None else (flip(), rand_augment(2, magnitude)),
        batch=(mixup(alpha),) if alpha else (),
    )


TIMM_IMAGE = (
    flip(),
    rand_augment(2, 9, magnitude_std=0.5, probability=0.5, operations=TIMM, fill=(124, 116, 104), interpolation="bilinear"),
    random_erasing(0.25),
)
AUGMENTATIONS = Table(
    "augmentation",
    {
        "none": Augmentation("images as they are"),
        "flip": Augmentation("mirror images alone", batch=(mirror(),)),
        # No flips: a mirrored digit is no longer the same digit.
        "digits": Augmentation(
            "tuned on the 1,797 digits of scikit-learn", batch=(affine(rotation=10.0, scale=0.1, shift=0.08, shear=0.1),)
        ),
        "fashion_mnist": Augmentation("chosen on Fashion-MNIST", batch=(mirror(), pad_and_crop(1), cutout(0.25))),
        "inception": augreg(),
        "light1": augreg(0),  # not the same as "inception": at magnitude 0, RandAugment still inverts, equalizes and fades
        "light2": augreg(10, 0.2),
        "medium1": augreg(15, 0.2),
        "medium2": augreg(15, 0.5),
        "strong1": augreg(20, 0.5),
        "strong2": augreg(20, 0.8),
        "better_plain": Augmentation(
            "Beyer et al., Better plain ViT baselines for ImageNet-1k (2022); configs/vit_s16_i1k.py of big_vision",
            crop=inception_crop(),
            image=(flip(), rand_augment(2, 10)),
            batch=(mixup(0.2),),
        ),
        "deit": Augmentation(
            "Touvron et al., Training data-efficient image transformers (2021), table 9; main.py of facebookresearch/deit",
            crop=random_resized_crop(),
            image=TIMM_IMAGE,
            batch=(mixup_or_cutmix(0.8, 1.0, 0.5),),
            repeats=3,
        ),
        "mae": Augmentation(
            "He et al., Masked Autoencoders (2021), table 9; main_finetune.py of facebookresearch/mae: DeiT's without repeats",
            crop=random_resized_crop(),
            image=TIMM_IMAGE,
            batch=(mixup_or_cutmix(0.8, 1.0, 0.5),),
        ),
        "beit": Augmentation(
            "Bao et al., BEiT (2022); run_class_finetuning.py of microsoft/unilm: DeiT's without repeats, MixUp and CutMix",
            crop=random_resized_crop(),
            image=TIMM_IMAGE,
        ),
        "deit3": Augmentation(
            "Touvron et al., DeiT III (2022), table 1, ImageNet-1k; README_revenge.md, augment.py and engine.py of facebookresearch/deit",
            crop=random_resized_crop(),
            image=(flip(), three_augment(), color_jitter(0.3, 0.3, 0.3)),
            batch=(mixup_or_cutmix(0.8, 1.0, 0.5), whole_labels()),
            repeats=3,
        ),
        "deit3_21k": Augmentation(
            "Touvron et al., DeiT III (2022), table 1, ImageNet-21k; README_revenge.md and augment.py of facebookresearch/deit",
            crop=simple_random_crop(),
            image=(flip(), three_augment(), color_jitter(0.3, 0.3, 0.3)),
            batch=(cutmix(1.0),),
        ),
        "finetune": Augmentation(
            "Kolesnikov et al., Big Transfer (2020), section 3.3; resize_crop in configs/transfer.py of big_vision",
            crop=resize_and_crop(448 / 384),
            image=(flip(),),
        ),
    },
)

# Additions to the name of a row, as in "digits+randaugment(5)+mixup(0.2)": the field that each extends, and what it adds for its number.
ADDITIONS = {
    "randaugment": ("image", lambda magnitude: rand_augment(2, magnitude, operations=TIMM, interpolation="bilinear")),
    "mixup": ("batch", mixup),
}


def open_augmentation(augmentation: Any) -> Augmentation:
    """Returns the `Augmentation` of a name, a Keras layer or a function. Argument as in `keras_vit.data.load`."""
    if isinstance(augmentation, Augmentation):
        return augmentation
    if not callable(augmentation):
        return named_augmentation(augmentation)
    arguments = {"training": True} if isinstance(augmentation, keras.layers.Layer) else {}
    name = getattr(augmentation, "name", getattr(augmentation, "__name__", type(augmentation).__name__))
    log.warning(f"Augmentation by {name}: a resumed run will not see the same images as an uninterrupted one")
    return Augmentation(name, batch=(lambda images, labels, seeds: (augmentation(images, **arguments), labels),))


def named_augmentation(name: str) -> Augmentation:
    """Returns the `Augmentation` of a name such as "digits+mixup(0.2)"."""
    row, *additions = str(name).split("+")
    augmentation = choose("augmentation", row, AUGMENTATIONS)
    for addition in additions:
        form = re.fullmatch(r"(\w+)\((\d+\.?\d*)\)", addition)
        if not form or form[1] not in ADDITIONS:
            known = ", ".join(f"{kind}(NUMBER)" for kind in ADDITIONS)
            raise ValueError(f"An addition to an augmentation must be one of {known}. Received: {name!r}")
        place, make = ADDITIONS[form[1]]
        augmentation = dataclasses.replace(augmentation, **{place: (*getattr(augmentation, place), make(float(form[2])))})
    # None of these functions has Python's `if` or `for` over tensors. For AutoGraph to find that out takes seconds.
    plain = tf.autograph.experimental.do_not_convert
    return dataclasses.replace(augmentation, image=tuple(map(plain, augmentation.image)), batch=tuple(map(plain, augmentation.batch)))
