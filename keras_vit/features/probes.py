"""Evaluation of features by a k-NN classifier and a linear probe, as in DINOv2."""

import importlib

import numpy as np
from tqdm import tqdm

from keras_vit.backbone import find_vision_transformer
from keras_vit.extras import install
from keras_vit.features.embedding import feature_model, features_of
from keras_vit.layers import checks

TEMPERATURE = 0.07


ENGINES = ("scikit-learn", "faiss")


def nearest(index, features, k=20, engine="scikit-learn"):
    """Returns the nearest features of an index by cosine similarity.

    Args:
        index: array `(m, width)`, the features to search in.
        features: array `(n, width)`, the features to search for.
        k: int. Number of neighbors.
        engine: "scikit-learn" or "faiss", which is faster from some ten thousand features on. Both search exactly. Defaults to
            "scikit-learn".

    Returns:
        (numbers, similarities): rows of `index` and their cosine similarities, both `(n, k)`, the nearest first.

    Raises:
        ValueError: if `k` is larger than the index, or the features are of different widths.
        ImportError: if the engine is not installed.

    Example:
    >>> numbers, similarities = nearest(np.eye(3), np.array([[0.0, 2.0, 1.0]]), k=2)
    >>> numbers, similarities.round(2)
    (array([[1, 2]]), array([[0.89, 0.45]]))
    """
    search = _search(engine)
    index, features = np.asarray(index), np.asarray(features)
    if index.ndim != 2 or features.ndim != 2 or index.shape[1] != features.shape[1]:
        raise ValueError(f"Features must be arrays (n, width) of one width. Received: shapes {index.shape} and {features.shape}")
    if checks.integer("k", k) > len(index):
        raise ValueError(f"`k` must not be larger than the {len(index)} features to search in. Received: k={k}")
    return search(index, features, k)


def _search(engine):
    """Returns the function of an engine; an ImportError says how to install it."""
    if checks.one_of("engine", engine, ENGINES) == "scikit-learn":
        neighbors = scikit_learn("neighbors")

        def by_scikit_learn(index, features, k):
            distances, numbers = (
                neighbors.NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(index).kneighbors(features)
            )
            return numbers, 1.0 - distances

        return by_scikit_learn
    try:
        import faiss
    except ImportError:
        raise ImportError(f"The engine faiss needs faiss: {install('faiss')}") from None

    def by_faiss(index, features, k):
        index, features = (np.array(each, "float32", order="C") for each in (index, features))
        for each in (index, features):
            faiss.normalize_L2(each)  # in place
        flat = faiss.IndexFlatIP(index.shape[1])
        flat.add(index)
        similarities, numbers = flat.search(features, k)
        return numbers, similarities

    return by_faiss


def knn_probabilities(train_features, train_labels, features, num_classes, k=20, temperature=TEMPERATURE, engine="scikit-learn"):
    """Classifies features by a vote of their nearest neighbors, which count by `exp(cosine similarity / temperature)`.

    Args:
        train_features: array `(m, width)`.
        train_labels: int array `(m,)`. Classes from 0.
        features: array `(n, width)`.
        num_classes: int.
        k: int. Number of neighbors that vote. Defaults to 20.
        temperature: float. The lower, the more weight the nearest neighbors have. Defaults to 0.07.
        engine: as in `nearest`.

    Returns:
        A float array `(n, num_classes)`, shares of the votes.

    Raises:
        ValueError: as `nearest`, and if the labels are not one class an image.
        ImportError: if scikit-learn is not installed.

    Reference:
        Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018, section 3.4; Oquab et al., "DINOv2:
        Learning Robust Visual Features without Supervision", 2023, section 7.1.

    Example:
    >>> knn_probabilities(np.eye(2), np.array([0, 1]), np.array([[1.0, 1.0], [1.0, 0.0]]), num_classes=2, k=2).round(2)
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    labels = class_labels(train_labels)
    numbers, similarities = nearest(train_features, features, k, engine)
    votes = np.exp((similarities - similarities[:, :1]) / temperature)
    shares = np.zeros((len(votes), num_classes))
    np.add.at(shares, (np.arange(len(votes))[:, None], labels[numbers]), votes)
    return shares / shares.sum(axis=-1, keepdims=True)


def probe_probabilities(train_features, train_labels, features, num_classes, strength=1.0):
    """Classifies features by a linear probe: logistic regression on standardized features.

    Args:
        train_features: array `(m, width)`.
        train_labels: int array `(m,)`. Classes from 0.
        features: array `(n, width)`.
        num_classes: int.
        strength: float. Inverse of the L2 regularization, `C` of scikit-learn's `LogisticRegression`. Defaults to 1.

    Returns:
        A float array `(n, num_classes)`. Classes without a training image have the probability 0.

    Raises:
        ValueError: if the training images are of one class, or the labels are not one class an image.
        ImportError: if scikit-learn is not installed.

    Example:
    >>> features = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> probe_probabilities(features, np.array([0, 0, 2, 2]), features, num_classes=3).argmax(axis=-1)
    array([0, 0, 2, 2])
    """
    linear_model, pipeline, preprocessing = (scikit_learn(name) for name in ("linear_model", "pipeline", "preprocessing"))
    labels = class_labels(train_labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("A linear probe needs training images of two classes or more. Received: images of one class")
    probe = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(C=strength, max_iter=1000))
    probe.fit(train_features, labels)
    probabilities = np.zeros((len(features), num_classes))
    probabilities[:, probe.classes_] = probe.predict_proba(features)
    return probabilities


def evaluate_features(
    model,
    data,
    split="test",
    knn=None,
    linear_probe=False,
    pooling=None,
    blocks=None,
    batch_size=32,
    verbose=True,
    engine="scikit-learn",
) -> dict:
    """Evaluates the features of a model: fits classifiers to the training images and applies them to another split.

    Args:
        model: a `keras_vit.VisionTransformer`, or a model whose first layer is one. Its head is not used.
        data: a `keras_vit.data.Data`.
        split: "test" or "validation". Without test images "test" is "validation".
        knn: int or None. Number of neighbors of the k-NN classifier, see `knn_probabilities`.
        linear_probe: bool. Whether a linear probe is trained, see `probe_probabilities`.
        pooling: as in `keras_vit.embed`.
        blocks: sequence of ints, "all" or None. Blocks whose features are evaluated. Defaults to None, the feature of the model's head.
        batch_size: int. Images that are computed at once.
        verbose: bool. Whether a progress bar is shown on stderr.
        engine: str. Of the k-NN classifier, as in `nearest`.

    Returns:
        dict with `split`, `images`, `train_images` and `results`, a list of dicts with `method` ("20-NN" or "linear probe"), `block` (None
        for the feature of the head), `accuracy`, and `top5_accuracy` where there are more than five classes.

    Raises:
        ValueError: if there is nothing to evaluate, the split is unknown, or as `keras_vit.embed`, `knn_probabilities` and
            `probe_probabilities`.
        ImportError: if scikit-learn is not installed.

    Example:
    >>> data = keras_vit.data.load("digits", train_images=200)  # doctest: +SKIP
    >>> evaluate_features(model, data, knn=20)["results"]  # doctest: +SKIP
    [{'method': '20-NN', 'block': None, 'accuracy': 0.95, 'top5_accuracy': 0.99}]
    """
    checks.one_of("split", split, ("test", "validation"))
    if knn is None and not linear_probe:
        raise ValueError("Nothing to evaluate. Pass `knn` or `linear_probe`")
    for needed in ("scikit-learn",) * linear_probe + (engine,) * (knn is not None):
        _search(needed)  # raises now if it is missing, and not after minutes of computation
    if knn is not None and checks.integer("knn", knn) > data.sizes["train"]:
        raise ValueError(f"`knn` must not be larger than the {data.sizes['train']} training images. Received: knn={knn}")
    if split == "test" and data.test is data.validation:
        split = "validation"
    depth = find_vision_transformer(model).config.num_layers
    blocks = range(depth) if blocks == "all" else blocks
    train_features, train_labels = _embed_split(model, data, "train", pooling, blocks, batch_size, verbose)
    features, labels = _embed_split(model, data, split, pooling, blocks, batch_size, verbose)
    numbers = [None] if blocks is None else [i % depth for i in blocks]
    count, results = len(data.class_names), []
    for position, number in enumerate(numbers):
        known, new = (each.reshape(len(each), len(numbers), -1)[:, position] for each in (train_features, features))
        found = {}
        if knn is not None:
            found[f"{knn}-NN"] = knn_probabilities(known, train_labels, new, count, knn, engine=engine)
        if linear_probe:
            found["linear probe"] = probe_probabilities(known, train_labels, new, count)
        results += [{"method": name, "block": number} | _accuracies(each, labels) for name, each in found.items()]
    return {"split": split, "images": len(labels), "train_images": len(train_labels), "results": results}


def _embed_split(model, data, name, pooling, blocks, batch_size, verbose):
    """Returns the features and labels of a split."""
    forward, vit = feature_model(model, pooling, blocks), find_vision_transformer(model)
    steps, features, labels = -(-data.sizes[name] // batch_size), [], []
    for images, truth in tqdm(data.splits[name].rebatch(batch_size), f"Embedding {name}", steps, unit="batch", disable=not verbose):
        features.append(features_of(forward, vit, images.numpy()))
        labels.append(truth.numpy())
    return np.concatenate(features), class_labels(np.concatenate(labels))


def _accuracies(probabilities, labels):
    ranked = np.argsort(-probabilities, axis=-1, kind="stable")
    right = ranked == labels[:, None]
    found = {"accuracy": float(right[:, 0].mean())}
    return found | ({"top5_accuracy": float(right[:, :5].any(axis=-1).mean())} if ranked.shape[1] > 5 else {})


def class_labels(labels):
    """Returns labels as an int array `(n,)`. Raises ValueError if they are not one class per image."""
    if labels is None:
        raise ValueError("Labels must be one class an image, ints (n,). Received: None, features of images without classes")
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"Labels must be one class an image, ints (n,). Received: {labels.dtype} of shape {labels.shape}")
    return labels


def scikit_learn(module):
    """Returns a module of scikit-learn, which is optional."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise ImportError(f"Nearest neighbors, probes and projections need scikit-learn: {install('features')}") from None
