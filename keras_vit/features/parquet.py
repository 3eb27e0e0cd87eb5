"""Files of features as Parquet tables, which pandas, DuckDB and Spark read: a row an image."""

import json
import os

import numpy as np

from keras_vit.extras import install

METADATA = b"keras_vit"


def write_parquet(path, features, labels, splits, indices, class_names, settings, names=None):
    """Writes a table with the columns features, label or name, split and index. Class names and settings are in the schema's metadata.

    Args:
        path: path of the file.
        features, labels, splits, indices, class_names, settings, names: as in `Features`.
    """
    pyarrow, parquet = require_pyarrow()
    columns = {"features": _lists(pyarrow, features)}
    if labels is not None:
        columns["label"] = _lists(pyarrow, labels) if labels.ndim > 1 else pyarrow.array(labels)
    if names is not None:
        columns["name"] = pyarrow.array(names.astype(str))
    table = pyarrow.table(columns | {"split": pyarrow.array(splits.astype(str)), "index": pyarrow.array(indices)})
    facts = {"class_names": list(class_names), "settings": settings, "width": features.shape[1]}
    parquet.write_table(table.replace_schema_metadata({METADATA: json.dumps(facts)}), path)


def read_parquet(path):
    """Returns (features, labels, splits, indices, class_names, settings, names) of a file that `write_parquet` wrote.

    Raises:
        ValueError: if it is no such file.
    """
    pyarrow, parquet = require_pyarrow()
    try:
        table = parquet.read_table(path)
        facts = json.loads(table.schema.metadata[METADATA])
    except (pyarrow.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"A file of features must be one that `keras-vit embed` wrote ({error}). Received: {path}") from None
    labels = names = None
    if "label" in table.column_names:
        label = table["label"].combine_chunks()
        labels = _matrix(label, len(facts["class_names"])) if pyarrow.types.is_fixed_size_list(label.type) else label.to_numpy()
    if "name" in table.column_names:
        names = np.array(table["name"].to_pylist(), str)
    features = _matrix(table["features"].combine_chunks(), facts["width"])
    splits, indices = np.array(table["split"].to_pylist(), str), table["index"].to_numpy()
    return features, labels, splits, indices, tuple(facts["class_names"]), facts["settings"], names


def _lists(pyarrow, matrix):
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def _matrix(lists, width):
    return lists.flatten().to_numpy().reshape(-1, width)


def check_text(names):
    """Raises a ValueError if a name cannot be written to a table, because its bytes are not UTF-8."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Names in a Parquet file must be UTF-8. Received: {os.fsencode(name)!r}. Rename it, or write an .npz file"
            ) from None


def require_pyarrow():
    """Returns pyarrow and its module for Parquet, which are optional."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"Parquet files need pyarrow: {install('features')}") from None
    return pyarrow, pyarrow.parquet
