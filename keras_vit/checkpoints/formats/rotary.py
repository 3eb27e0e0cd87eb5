"""The `rotary` argument of a model in timm's and Meta's files, and its tensor."""

import re
from typing import Any

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.formats.mapping import Layout, Row, known, row
from keras_vit.rotary import rotary_config, rotary_dict

# Arguments of timm's architectures, the first that matches: its configurations hold only what differs from them.
ARCHITECTURES = {
    r"vit_pe_.*gigantic": dict(rope_grid_indexing="xy"),
    r"vit_pe_": dict(rope_grid_indexing="xy", rope_grid_offset=1.0),
    r"dinov3": dict(rope_type="dinov3", rope_temperature=100.0),
    r"_rope_mixed": dict(rope_type="mixed", rope_temperature=10.0, rope_grid_indexing="xy"),
    r"_rope_reg": dict(ref_feat_shape=16),
    r"_rope_": dict(rope_temperature=100.0, rope_grid_indexing="xy"),
    r"eva02_enormous": dict(use_rot_pos_emb=False),
    r"eva02_": dict(ref_feat_shape=16),
}
DINOV3 = dict(coordinates="normalized", base=100.0)
TYPES = {"cat": "fixed", "mixed": "learned", "dinov3": "fixed"}


def read(arch: str, given: dict[str, Any], shapes: dict, periods: Any, swiglu: bool, wanted: Any = None) -> dict[str, Any] | None:
    """Returns the `rotary` argument, or None for a model without rotary positions.

    Args:
        arch: str. timm's architecture; "" for a file without a configuration.
        given: dict. The arguments in timm's configuration.
        shapes: dict. The shape of each canonical key.
        periods: float array or None. The periods in Meta's file.
        swiglu: bool. Whether the feed-forward networks are gated.
        wanted: the user's or the preset's `rotary`, for a file that does not say. Defaults to None.
    """
    found = _of_configuration(arch, given) if arch or given else _of_tensors(shapes, periods, swiglu, wanted)
    return rotary_dict(rotary_config(found))


def _of_configuration(arch, given):
    defaults = next((form for pattern, form in ARCHITECTURES.items() if re.search(pattern, arch)), {"use_rot_pos_emb": False})
    if resolution := re.search(r"vit_pe_.*patch(\d+)_(?:\w+_)?(\d+)$", arch):
        defaults = {**defaults, "ref_feat_shape": int(resolution[2]) // int(resolution[1])}
    c = {"use_rot_pos_emb": True, **defaults, **given}
    if not c["use_rot_pos_emb"]:
        return None
    kind = c.get("rope_type") or "cat"
    frequencies = known("rope_type", kind, TYPES)
    augments = {name: c[f"rope_{name}_coords"] for name in ("shift", "jitter", "rescale") if c.get(f"rope_{name}_coords")}
    base = float(c.get("rope_temperature", 10000.0))
    if kind == "dinov3":
        known("rope_rotate_half", c.get("rope_rotate_half", True), {True: True})
        return {**DINOV3, "base": base, **augments}
    known("rope_rotate_half", c.get("rope_rotate_half", False), {False: False})
    grid = c.get("ref_feat_shape") if kind == "cat" else None
    return dict(
        coordinates="index",
        base=base,
        axes=known("rope_grid_indexing", c.get("rope_grid_indexing", "ij"), {"ij": "yx", "xy": "xy"}),
        offset=float(c.get("rope_grid_offset", 0.0)) if kind == "cat" else 0.0,
        native_grid=(grid, grid) if isinstance(grid, int) else grid and tuple(grid),
        frequencies=frequencies,
        **augments,
    )


def _of_tensors(shapes, periods, swiglu, wanted):
    if periods is not None:
        return {**DINOV3, "rescale": 2.0, **_of_periods(periods)}
    if wanted:
        return wanted
    if "rope.freqs" in shapes:
        return dict(base=10.0, axes="xy", frequencies="learned")
    if "pos_embed" in shapes:
        return dict(native_grid=(16, 16)) if swiglu else None  # EVA-02
    if "reg_token" in shapes:
        return DINOV3 if "cls_token" in shapes else dict(native_grid=(16, 16))
    return dict(base=100.0, axes="xy")


def periods(rotary: dict[str, Any], head_dim: int) -> np.ndarray:
    """Returns the periods that Meta's DINOv3 keeps in its files, `base ** (i / count)`, of shape `(head_dim / 4,)` in float32."""
    count = head_dim // 4
    exact = np.float32(rotary["base"]) ** (np.arange(count, dtype="float32") / np.float32(count))
    return exact.astype(ml_dtypes.bfloat16).astype("float32") if rotary["period_dtype"] == "bfloat16" else exact


def _of_periods(found):
    """Returns base and type of the periods in a file of Meta's."""
    count = len(found)
    for base in (100.0, float(found[-1]) ** (count / (count - 1)) if count > 1 else 100.0):
        for dtype in ("float32", "bfloat16"):
            if np.allclose(found, periods(dict(base=base, period_dtype=dtype), 4 * count), rtol=1e-6, atol=0.0):
                return dict(base=base, period_dtype=dtype)
    raise ValueError(
        "The periods of rotary positions must be powers of one base, in float32 or rounded to bfloat16. "
        f"Received: rope_embed.periods={np.round(found, 4).tolist()}"
    )


def write(rotary: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the arguments of timm's class `Eva` for a `rotary` argument."""
    if rotary is None:
        return dict(use_rot_pos_emb=False)
    native = rotary["native_grid"]
    learned, normalized = rotary["frequencies"] == "learned", rotary["coordinates"] == "normalized"
    return dict(
        use_rot_pos_emb=True,
        rope_type="mixed" if learned else "dinov3" if normalized else "cat",
        rope_rotate_half=normalized,
        rope_temperature=rotary["base"],
        rope_grid_indexing="ij" if rotary["axes"] == "yx" else "xy",
        rope_grid_offset=rotary["offset"],
        ref_feat_shape=native and list(native),
        **{f"rope_{name}_coords": rotary[name] for name in ("shift", "jitter", "rescale")},
    )


def lacks(rotary: dict[str, Any] | None) -> list[str]:
    """Returns what timm's class `Eva` does not support of a `rotary` argument."""
    if rotary is None:
        return []
    learned, normalized = rotary["frequencies"] == "learned", rotary["coordinates"] == "normalized"
    unlike = learned and (normalized or rotary["offset"] or rotary["native_grid"]) or (normalized and rotary["axes"] != "yx")
    return [f"rotary={rotary}"] * bool(unlike) + rounded(rotary)


def rounded(rotary: dict[str, Any]) -> list[str]:
    """Returns an entry of `lacks` where periods are rounded as in Meta's files: timm and transformers compute them."""
    hint = 'dataclasses.replace(model.config.rotary, period_dtype="float32")'
    said = f"rotary with period_dtype='bfloat16' (`model.adapt(rotary={hint})` has theirs, and slightly other outputs)"
    return [said] if rotary["period_dtype"] == "bfloat16" else []


def frequency_rows(a: dict[str, Any]) -> list[Row]:
    """Returns the row of learned frequencies: (2, blocks, heads, half a head) in timm's files, the last two as one in RoPE-ViT's own."""
    if not a["rotary"] or a["rotary"]["frequencies"] != "learned":
        return []
    layers, heads = a["num_layers"], a["num_heads"]
    layout = Layout(
        lambda f: np.swapaxes(np.reshape(f, (2, layers, heads, -1)), 0, 1), lambda f: np.ascontiguousarray(np.swapaxes(f, 0, 1))
    )
    return [row("rotary_position_embedding/frequencies", "rope.freqs", layout)]
