"""Files of features as Parquet tables, which pandas, DuckDB and Spark read: a row an image."""

import json

import numpy as np

from keras_vit.extras import install

METADATA = b"keras_vit"


def write_parquet(path, features, labels, splits, indices, class_names, settings):
    """Writes a table with the columns features, label, split and index. Class names and settings are in the schema's metadata.

    Args:
        path: path of the file.
        features, labels, splits, indices, class_names, settings: as in `Features`.
    """
    pyarrow, parquet = require_pyarrow()
    width, classes = features.shape[1], labels.shape[1:]
    label = pyarrow.array(labels) if not classes else _lists(pyarrow, labels)
    table = pyarrow.table(
        {"features": _lists(pyarrow, features), "label": label, "split": pyarrow.array(splits.astype(str)), "index": pyarrow.array(indices)}
    )
    facts = {"class_names": list(class_names), "settings": settings, "width": width}
    parquet.write_table(table.replace_schema_metadata({METADATA: json.dumps(facts)}), path)


def read_parquet(path):
    """Returns (features, labels, splits, indices, class_names, settings) of a file that `write_parquet` wrote.

    Raises:
        ValueError: if it is no such file.
    """
    pyarrow, parquet = require_pyarrow()
    try:
        table = parquet.read_table(path)
        facts = json.loads(table.schema.metadata[METADATA])
    except (pyarrow.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"A file of features must be one that `keras-vit embed` wrote ({error}). Received: {path}") from None
    label = table["label"].combine_chunks()
    labels = _matrix(label, len(facts["class_names"])) if pyarrow.types.is_fixed_size_list(label.type) else label.to_numpy()
    features = _matrix(table["features"].combine_chunks(), facts["width"])
    splits, indices = np.array(table["split"].to_pylist(), str), table["index"].to_numpy()
    return features, labels, splits, indices, tuple(facts["class_names"]), facts["settings"]


def _lists(pyarrow, matrix):
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def _matrix(lists, width):
    return lists.flatten().to_numpy().reshape(-1, width)


def require_pyarrow():
    """Returns pyarrow and its module for Parquet, which are optional."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"Parquet files need pyarrow: {install('features')}") from None
    return pyarrow, pyarrow.parquet
