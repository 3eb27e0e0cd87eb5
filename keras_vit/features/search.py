"""Search in a file of features: the nearest images to another one, and their pixels."""

import numpy as np

from keras_vit.features.embedding import embed
from keras_vit.features.files import Features, fingerprint
from keras_vit.features.probes import nearest


def embed_query(model, paths, index: Features) -> np.ndarray:
    """Returns the features of images, computed in the same way as those of an index.

    Args:
        model: the `keras_vit.VisionTransformer` that the index was computed with.
        paths: list of paths of image files.
        index: the `Features`, as `read_features` returns them.

    Returns:
        A float32 array `(n, width)`.

    Raises:
        ValueError: if the model has other weights than that of the index, or an image cannot be read.

    Example:
    >>> embed_query(model, ["cat.jpg"], read_features("pets.npz")).shape  # doctest: +SKIP
    (1, 384)
    """
    if fingerprint(model) != index.settings["weights_crc32"]:
        raise ValueError("The features must be computed with the weights of `model`. Received: features of a model with other weights")
    size = index.settings.get("data_options", {}).get("image_size")
    if size is not None and None in model.input_shape[1:3]:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        model = model.adapt(input_shape=(*sides, model.input_shape[-1]))
    return embed(model, list(paths), index.settings["pooling"], verbose=False)


def similar(index: Features, query, k=None, engine="scikit-learn") -> list[dict]:
    """Returns the images of an index that are nearest to another image, by cosine similarity.

    Args:
        index: the `Features` to search in.
        query: array `(width,)`, the feature of the other image.
        k: int or None. Number of images. Defaults to None: 10, or all if the index has fewer.
        engine: as in `nearest`.

    Returns:
        A list of dicts, the nearest first: `row` in the index, `similarity`, `split`, `index` within the split, and `label`: the name of
        its class, or of its classes with commas. Images without classes have `name`, the path of the file, in place of a label.

    Raises:
        ValueError: if `k` is larger than the index, or the features are of different widths.
        ImportError: if scikit-learn is not installed.

    Example:
    >>> index = Features(np.eye(2), np.array([0, 1]), np.array(["train", "test"]), np.array([7, 3]), ("cat", "dog"), {})
    >>> similar(index, np.array([0.1, 2.0]), k=1)
    [{'row': 1, 'similarity': 0.99..., 'split': 'test', 'index': 3, 'label': 'dog'}]
    """
    k = min(10, len(index.features)) if k is None else k
    numbers, similarities = nearest(index.features, np.asarray(query)[None], k, engine)
    return [
        {
            "row": int(row),
            "similarity": float(similarity),
            "split": str(index.splits[row]),
            "index": int(index.indices[row]),
            **({"label": label_of(index, row)} if index.names is None else {"name": str(index.names[row])}),
        }
        for row, similarity in zip(numbers[0], similarities[0])
    ]


def label_of(index, row):
    """Returns the name of an image's class, or of its classes with commas."""
    label = index.labels[row]
    classes = np.atleast_1d(label) if index.labels.ndim == 1 else np.flatnonzero(label)
    return ", ".join(index.class_names[i] for i in classes)


def images_of(index: Features, rows, data=None) -> list[np.ndarray]:
    """Reads images of an index from its data set, neither resized nor cropped.

    Args:
        index: the `Features`. Their settings name the data, as `keras-vit embed` writes them.
        rows: sequence of ints. Rows of the index.
        data: str or None. The current place of the data, if they were moved.

    Returns:
        A list of arrays `(rows, columns, 3)` of values from 0 to 255.

    Raises:
        ValueError: if the settings do not name the data, or the data have changed.

    Example:
    >>> images_of(read_features("digits.npz"), [0])[0].shape  # doctest: +SKIP
    (16, 16, 3)
    """
    import tensorflow as tf

    from keras_vit.data.sources import open_source

    data = data or index.settings.get("data")
    if index.names is not None:
        from keras_vit.features.unlabeled import read_files  # needs `keras_vit.data`, which `import keras_vit` does not

        return read_files(data or "", [index.names[row] for row in rows])
    if data is None:
        raise ValueError("The features do not name their data. Pass `data`, such as digits or the path of a folder")
    source = open_source(data, dict(index.settings.get("data_options", {})))
    for name, size in index.settings["splits"].items():
        if source.splits[name].size != size:
            raise ValueError(
                f"The data must be those of the features: {size:,} {name} images. Received: {source.splits[name].size:,} in {data}"
            )
    found = []
    for row in rows:
        image, _ = source.splits[str(index.splits[row])].read_one(tf.constant(index.indices[row], tf.int64))
        found.append(image.numpy())
    return found
