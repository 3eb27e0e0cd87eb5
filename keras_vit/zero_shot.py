"""Builds a zero-shot classifier from text embeddings, for models that were trained on images and texts."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_vit.checkpoints.download import resolve
from keras_vit.checkpoints.formats.archives import read_npz
from keras_vit.checkpoints.formats.files import open_tensors
from keras_vit.layers import checks
from keras_vit.vision_transformer import VisionTransformer

MOST_SCALE = 10.0  # published models have less than 5; a factor in the place of its logarithm is more, and its exponential overflows

# Tensors of a checkpoint for the scores of images and texts -> the ends of their names.
SCORES = {
    "logit_scale": ("logit_scale", "params/t"),
    "logit_bias": ("logit_bias", "params/b"),
    "projection": ("visual_projection.weight",),
}


def zero_shot(
    model: VisionTransformer,
    text_embeddings: Any,
    class_names: Sequence[str] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
    projection: np.ndarray | None = None,
) -> VisionTransformer:
    """Returns a zero-shot classifier: a model whose head is made of text embeddings of the classes.

    The logit of a class is `exp(logit_scale) * cosine(image feature, text embedding) + logit_bias`. Text towers are not part of this
    package: compute the embeddings with the model's own library, and save them. With a bias (SigLIP), the outputs are independent
    probabilities (sigmoid). Without a bias (CLIP), they add up to 1 (softmax).

    Args:
        model: a `VisionTransformer` that returns image features, such as SigLIP's or CLIP's image tower; or one whose head is the
            projection to the embedding space, as in timm's CLIP.
        text_embeddings: array `(classes, width)`; or `(classes, templates, width)`, whose unit vectors are averaged over the templates; or
            the path of an npz file with one of these as "embeddings" and, optionally, "class_names". Embeddings of any length are
            normalized.
        class_names: sequence of str, one for each class. Defaults to None, those of the npz file, if it has them.
        checkpoint: str, path-like or None. The checkpoint of both towers that `model` comes from, as in `keras_vit.from_pretrained`. The
            three arguments below are read from it if they are not given and the checkpoint has them. Defaults to None.
        logit_scale: float or None. Logarithm of the factor of the cosines, as checkpoints store it. Defaults to None.
        logit_bias: float or None. Bias that is added to the scaled cosines. Defaults to None, no bias.
        projection: array (hidden_dim, width) or None. Matrix that projects the image feature to the embedding space, such as the transpose
            of transformers' `visual_projection.weight` in CLIP. Defaults to None, no projection.

    Returns:
        A new `VisionTransformer` with a head, the class names and the model's weights. It can be saved, loaded and trained like any other.

    Raises:
        ValueError: if `logit_scale` is unknown, or widths or numbers do not match.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1; Zhai et al., "Sigmoid
        Loss for Language Image Pre-Training", 2023.

    Example:
    >>> tower = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, include_top=False)
    >>> texts = np.random.default_rng(0).normal(size=(3, 64))
    >>> classifier = keras_vit.zero_shot(tower, texts, ["a cat", "a dog", "a bird"], logit_scale=4.6)
    >>> classifier(keras.ops.ones((2, 32, 32, 3))).shape
    (2, 3)
    """
    if not isinstance(model, VisionTransformer) or model.config.pooling is None:
        what = f"a {type(model).__name__}" if not isinstance(model, VisionTransformer) else "a model with pooling=None"
        raise ValueError(f"`model` must be a VisionTransformer that returns one feature for each image. Received: {what}")
    texts, class_names = _texts(text_embeddings, class_names)
    scores = {"logit_scale": logit_scale, "logit_bias": logit_bias, "projection": projection}
    if checkpoint is not None:
        scores |= {name: value for name, value in _scores(checkpoint).items() if scores[name] is None}
    if scores["logit_scale"] is None:
        where = "" if checkpoint is None else f", and {checkpoint} has none"
        raise ValueError(
            f"`logit_scale` is needed: as a number (4.6052 in CLIP), or in the file `checkpoint`. Received: logit_scale=None{where}"
        )
    scale = checks.number("logit_scale", scores["logit_scale"])
    shift = 0.0 if scores["logit_bias"] is None else checks.number("logit_bias", scores["logit_bias"])
    if scale > MOST_SCALE:
        raise ValueError(
            f"`logit_scale` must be the logarithm of the factor, of at most {MOST_SCALE:g}. Received: logit_scale={scale:g}. "
            f"For a factor of {scale:g}, pass {np.log(scale):.4f}"
        )
    config, projection, start = model.config, scores["projection"], None
    width = config.representation_size or config.feature_dim
    if config.include_top and projection is None:  # the head is the projection
        kernel, bias = (np.asarray(weight) for weight in model.get_layer("head").get_weights())
        projection, start = kernel, bias
    if projection is not None:
        projection = np.asarray(projection, "float32")
        if projection.ndim != 2 or projection.shape[0] != width or config.representation_size or not np.isfinite(projection).all():
            raise ValueError(
                f"`projection` must be a finite matrix from features of {width}. Received: projection of shape {projection.shape}"
            )
        width = projection.shape[1]
    if texts.shape[1] != width:
        raise ValueError(f"Image features and text embeddings must have one width. Received: {width} and {texts.shape[1]}")
    changes: dict = dict(num_classes=len(texts), class_names=class_names, unit_feature=True)
    changes["classifier_activation"] = "softmax" if scores["logit_bias"] is None else "sigmoid"
    if projection is not None:
        changes |= dict(representation_size=width, representation_activation=None)
    classifier = (model.adapt(include_top=False) if config.include_top else model).adapt(**changes)
    if projection is not None:
        classifier.get_layer("pre_logits").set_weights([projection, np.zeros(width) if start is None else start])
    classifier.get_layer("head").set_weights([np.exp(scale) * texts.T, np.full(len(texts), shift)])
    return classifier


def _texts(given, class_names):
    """Returns unit text embeddings `(classes, width)`, and the names of the classes or None."""
    if isinstance(given, (str, os.PathLike)):
        file = read_npz(resolve(given))
        if "embeddings" not in file:
            raise ValueError(f"An npz file of text embeddings must hold the array 'embeddings'. Received: {', '.join(file)} in {given}")
        class_names = list(map(str, file["class_names"].ravel())) if class_names is None and "class_names" in file else class_names
        given = file["embeddings"]
    try:
        texts = np.asarray(given, "float64")
    except (TypeError, ValueError) as error:
        what = f"a {type(given).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"`text_embeddings` must be an array of numbers, or the path of an npz file. Received: {what}") from error
    if texts.ndim not in (2, 3) or 0 in texts.shape or not np.isfinite(texts).all() or not np.linalg.norm(texts, axis=-1).all():
        raise ValueError(
            "`text_embeddings` must be finite and not zero, of shape (classes, width) or (classes, templates, width). "
            f"Received: shape {texts.shape}"
        )
    texts = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    if texts.ndim == 3:
        texts = texts.mean(axis=1)
        texts = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    if class_names is not None and len(class_names) != len(texts):
        raise ValueError(f"There must be one name per class. Received: {len(class_names)} names, {len(texts)} text embeddings")
    return texts.astype("float32"), class_names


def _scores(checkpoint):
    """Returns the entries of `SCORES` that a checkpoint has."""
    found = {}
    with open_tensors(resolve(checkpoint)) as tensors:
        for name, ends in SCORES.items():
            keys = [key for key in tensors if any(key == end or key.endswith(f".{end}") for end in ends)]
            if keys:
                found[name] = np.asarray(tensors[keys[0]], "float32")
    for name in {"logit_scale", "logit_bias"} & found.keys():
        found[name] = float(np.ravel(found[name])[0])
    if "projection" in found:
        found["projection"] = found["projection"].T
    return found
