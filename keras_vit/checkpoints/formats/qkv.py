"""How queries, keys and values lie in a file: in one tensor or three, and for rotary embeddings in halves or in neighboring pairs."""

from typing import Any

import numpy as np

from keras_vit.checkpoints.formats.mapping import Layout, Row, dense, norm, row


def in_halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Returns queries or keys, `(heads * head_dim, ...)`, with the even channels of each head before the odd ones.

    Packages that rotate neighboring channels together store them as pairs; `RotaryPositionEmbedding` takes halves. The scores are equal.
    """
    pairs = np.reshape(array, (heads, -1, 2, *array.shape[1:]))
    return np.reshape(np.swapaxes(pairs, 1, 2), array.shape)


def in_pairs(array: np.ndarray, heads: int) -> np.ndarray:
    """Undoes `in_halves`."""
    halves = np.reshape(array, (heads, 2, -1, *array.shape[1:]))
    return np.reshape(np.swapaxes(halves, 1, 2), array.shape)


def qkv_rows(a: dict[str, Any], path: str, kernel: Any, bias: Any, masked: bool = False) -> list[Row]:
    """Returns the rows of the projection to queries, keys and values.

    Args:
        a: dict. The full set of arguments of `VisionTransformer`.
        path: str. Our layer, such as "block_0/attention/qkv".
        kernel: str or sequence of three str. The key of the one kernel, or those of queries, keys and values, as torch stores them.
        bias: str or sequence of str. The key of the one bias, or those of queries, (keys,) and values.
        masked: bool. Whether the one bias has a third for the keys although `qkv_bias` is "query_value". Defaults to False.
    """
    heads = a["num_heads"]
    rotated = (a.get("rotary") or {}).get("coordinates") == "index"
    inward = (lambda x: in_halves(x, heads)) if rotated else lambda x: x
    outward = (lambda x: in_pairs(x, heads)) if rotated else lambda x: x
    without_key = a["qkv_bias"] == "query_value"

    def layout(is_kernel, apart):
        turned = (lambda x: x.T) if is_kernel else lambda x: x
        short = without_key and not is_kernel  # ours has no third for the keys

        def read(*arrays):
            parts = np.split(arrays[0], 3 if is_kernel or masked or not short else 2) if len(arrays) == 1 else arrays
            query, value = inward(parts[0]), parts[-1]
            parts = (query, value) if short else (query, inward(parts[1]), value)
            return turned(np.concatenate(parts))

        def write(array):
            parts = np.split(turned(array), 2 if short else 3)
            keys = [np.zeros_like(parts[0])] if short and masked else [outward(part) for part in parts[1:-1]]
            parts = (outward(parts[0]), *keys, parts[-1])
            return tuple(map(np.ascontiguousarray, parts)) if apart else np.concatenate(parts)

        return Layout(read, write)

    rows = [row(f"{path}/kernel", kernel, layout(True, not isinstance(kernel, str)))]
    return rows + ([row(f"{path}/bias", bias, layout(False, not isinstance(bias, str)))] if a["qkv_bias"] else [])


def pooling_rows(theirs: str, attention: str, projection: str, mlp: tuple[str, str]) -> list[Row]:
    """Returns the rows of attention pooling by torch's MultiheadAttention, which has one weight for query, key and value; ours has two.

    Args:
        theirs: str. Prefix of the keys.
        attention: str. Prefix of the weight of query, key and value.
        projection: str. Prefix of the output projection.
        mlp: pair of str. Prefixes of the feed-forward network's dense layers.
    """
    ours = "attention_pooling"

    def read(array):
        query, key, value = np.split(array, 3)
        return query.T, np.concatenate([key, value]).T

    layout = Layout(read, lambda query, key_value: np.concatenate([query.T, key_value.T]))
    table = [row(f"{ours}/probe", f"{theirs}.probe")]
    for part, name in (("kernel", "weight"), ("bias", "bias")):
        table.append(row((f"{ours}/query/{part}", f"{ours}/key_value/{part}"), f"{attention}.in_proj_{name}", layout))
    table += dense(f"{ours}/projection", projection) + norm(f"{ours}/norm", f"{theirs}.layernorm")
    return table + dense(f"{ours}/mlp/fc1", mlp[0]) + dense(f"{ours}/mlp/fc2", mlp[1])
