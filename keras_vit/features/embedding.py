"""One feature vector for each image."""

import os
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from keras_vit.backbone import check_blocks, find_vision_transformer, of_images, tokens_after
from keras_vit.image_input import check_images
from keras_vit.layers import checks
from keras_vit.runtime.trainer import FunctionalModel

POOLINGS = ("token", "gap", "token_gap", "map", None)


def embed(
    model: keras.Model,
    images,
    pooling: str | None = None,
    blocks: int | Iterable[int] | None = None,
    batch_size: int = 32,
    verbose: bool = True,
) -> np.ndarray:
    """Returns the features of images, for search, clustering or classification.

    Args:
        model: a `keras_vit.VisionTransformer`, or a model whose first layer is one. The layers after it are not computed.
        images: array `(n, rows, columns, channels)` as the model takes it; or a list of paths of image files, which are resized and
            cropped as `keras_vit.data.evaluation_transform` does; or a `tf.data.Dataset`, a `keras.utils.PyDataset` or another iterable
            of batches: images, or tuples `(images, labels)`, whose labels are ignored.
        pooling: how the tokens become one vector. "token" is the class token (with a distillation token, the mean of both), "gap" the
            mean of the patch tokens, "token_gap" both, concatenated, and "map" the model's attention pooling. Defaults to None,
            the feature that the model's head reads.
        blocks: int, sequence of ints or None. Blocks whose features are returned, counted from 0, or from the end if negative. The
            model's last normalization is applied to them. Defaults to None, the last block, without an axis of its own.
        batch_size: int. Number of images per batch. A dataset has its own batches. Defaults to 32.
        verbose: bool. Whether a progress bar is shown on stderr. Defaults to True.

    Returns:
        A float32 array `(n, features)`, in the order of the images; with a sequence of `blocks` `(n, blocks, features)`.

    Raises:
        ValueError: if the model holds no `VisionTransformer`, lacks the tokens of `pooling` or a block, or does not
            take these images.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 4, 2, 128, num_classes=10)
    >>> images = np.random.randint(0, 256, (5, 32, 32, 3), "uint8")
    >>> keras_vit.embed(model, images, verbose=False).shape
    (5, 64)
    >>> keras_vit.embed(model, images, pooling="token_gap", blocks=(0, -1), verbose=False).shape
    (5, 2, 128)
    """
    forward, vit = feature_model(model, pooling, blocks), find_vision_transformer(model)
    batches, steps = _batches(vit, images, checks.integer("batch_size", batch_size))
    found = [features_of(forward, vit, batch) for batch in tqdm(batches, "Embedding", steps, unit="batch", disable=not verbose)]
    if not found:
        raise ValueError("`images` must hold an image. Received: none, or an iterator that is exhausted")
    return np.concatenate(found)


def feature_model(model, pooling=None, blocks=None):
    """Returns a model from images to their features. Arguments as in `embed`; weights are shared."""
    vit = of_images(find_vision_transformer(model))
    _check_first(model, vit)
    c = vit.config
    checks.one_of("pooling", pooling, POOLINGS)
    own = pooling is None
    pooling = c.pooling if own else pooling
    if pooling is None:
        raise ValueError('A model that returns all tokens needs a pooling: "gap"' + (' or "token"' if c.class_token else ""))
    if pooling in ("token", "token_gap") and not c.class_token:
        raise ValueError(f"The model has no class token. Received: pooling={pooling!r}. Use 'gap'")
    if pooling == "map" and c.pooling != "map":
        raise ValueError(f"The model has no attention pooling. Received: pooling='map', on a model with pooling={c.pooling!r}")
    one = blocks is None or checks.is_int(blocks, -c.num_layers)
    chosen = check_blocks((-1 if blocks is None else blocks,) if one else blocks, c.num_layers)
    features = [_pooled(vit, tokens_after(vit, i), pooling) for i in chosen]
    if own and blocks is None and c.representation_size:
        features = [vit.get_layer("pre_logits")(features[0])]
    return FunctionalModel(vit.input, features[0] if one else ops.stack(features, axis=1), name=f"{vit.name}_features")


def features_of(forward, vit, images):
    """Returns the features of a batch as a float32 array.

    Args:
        forward: model, as `feature_model` returns it.
        vit: its `VisionTransformer`, for the check of the images.
        images: array `(batch, rows, columns, channels)`.
    """
    check_images(vit, images)
    return np.asarray(ops.convert_to_numpy(forward.predict_on_batch(images)), "float32")


def _check_first(model, vit):
    """Raises an error for layers between the images and the ViT, because they would not be applied."""
    if model is vit or not isinstance(getattr(model, "layers", None), list):
        return
    first = next(layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    if first is not vit and (isinstance(model, keras.Sequential) or hasattr(model, "outputs")):
        raise ValueError(
            f"The VisionTransformer must be the first layer of `model`. Received: a model that begins with {first.name!r}. "
            f"Pass the VisionTransformer, `model.get_layer({vit.name!r})`, and images as it takes them"
        )


def _pooled(vit, tokens, pooling):
    c, norm = vit.config, vit.get_layer("norm")
    before, after = (lambda x: x, norm) if c.norm_after_pooling else (norm, lambda x: x)
    read, count = before(tokens), c.num_class_tokens
    features = []
    if pooling in ("token", "token_gap"):
        features.append(after(read[:, 0] if count == 1 or pooling == "token_gap" else ops.mean(read[:, :count], axis=1)))
    if pooling != "token":
        patches = read[:, vit.num_prefix_tokens :]
        if pooling == "map":
            pooled = vit.get_layer("attention_pooling")(read if c.pooling_prefix_tokens else patches)
        else:
            pooled = ops.mean(patches, axis=1)
        features.append(after(pooled))
    return features[0] if len(features) == 1 else ops.concatenate(features, axis=-1)


def _batches(vit, images, batch_size):
    """Returns (iterable of batches as arrays, their number or None)."""
    if isinstance(images, (list, tuple)) and images and all(isinstance(image, (str, os.PathLike)) for image in images):
        from keras_vit.data.preprocessing import evaluation_transform

        transform = evaluation_transform(vit)
        starts = range(0, len(images), batch_size)
        return (np.stack([transform(path) for path in images[i : i + batch_size]]) for i in starts), len(starts)
    if isinstance(images, (list, tuple)) and len({np.shape(image) for image in images}) > 1:
        raise ValueError("`images` must be images of one shape, without labels. Received: a list of arrays of several shapes")
    if isinstance(images, (list, tuple, np.ndarray)) or ops.is_tensor(images):
        images = _array(images)
        check_images(vit, images)
        starts = range(0, len(images), batch_size)
        return (images[i : i + batch_size] for i in starts), len(starts)
    if isinstance(images, keras.utils.PyDataset):
        steps = images.num_batches
        if steps is None:
            raise ValueError("`images` must be finite. Received: a PyDataset without a number of batches")
        return (_images(images[i]) for i in range(steps)), steps
    if not isinstance(images, Iterable):
        raise ValueError(f"`images` must be an array, a list of paths or a dataset of batches. Received: {type(images).__name__}")
    steps = int(images.cardinality()) if hasattr(images, "cardinality") else len(images) if hasattr(images, "__len__") else None
    if steps == -1:
        raise ValueError("`images` must be finite. Received: an infinite tf.data.Dataset. Use `dataset.take(count)`")
    return map(_images, images), None if steps is None or steps < 0 else steps


def _images(batch):
    return _array(batch[0] if isinstance(batch, (list, tuple)) else batch)


def _array(images):
    return ops.convert_to_numpy(images) if ops.is_tensor(images) else np.asarray(images)
