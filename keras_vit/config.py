"""The configuration of a Vision Transformer: all arguments, their checks, and the values that follow from them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import keras
import numpy as np

from keras_vit.inputs import check_combinations
from keras_vit.layers import activations, checks
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.multi_head_self_attention import QKV_BIASES
from keras_vit.layers.position_embedding import KINDS
from keras_vit.layers.resampling import METHODS
from keras_vit.layers.sublayers import unshared
from keras_vit.names import nearest
from keras_vit.outputs import check_tokens
from keras_vit.presets import preset
from keras_vit.rotary import RotaryConfig, rotary_config, rotary_dict
from keras_vit.stems import ConvStemConfig, ResNetStemConfig, stem_config, stem_dict

Pooling = Literal["token", "gap", "token_gap", "map"]
POOLINGS = ("token", "gap", "token_gap", "map", None)
DROP_PATH_SCHEDULES = ("linear", "constant")
FUNCTIONS = ("activation", "classifier_activation", "representation_activation")
DATA_FORMATS = ("channels_last", "channels_first")
PREPROCESSING = {"mean": 0.5, "std": 0.5, "size": None, "interpolation": "bicubic", "crop_fraction": 0.875, "crop_mode": "center"}


class UnknownArgument(ValueError, TypeError):
    """An unknown argument of `VisionTransformer`. It is a ValueError, like any wrong argument, and a TypeError, like that of a function."""


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The arguments of `keras_vit.VisionTransformer`, which documents them, and the values that follow from them.

    A configuration is checked when it is created, and is immutable: `replace` returns a new one. Lists become tuples, NumPy numbers become
    Python numbers, and defaults are filled into `preprocessing`, `rotary` and `stem`.

    Raises:
        ValueError: if an argument is out of range or two contradict each other.

    Example:
    >>> config = ViTConfig((224, 224, 3), patch_size=16, num_register_tokens=4)
    >>> config.grid_size, config.num_tokens
    ((14, 14), 201)
    >>> config.replace(patch_size=32).num_tokens
    54
    """

    input_shape: tuple[int | None, int | None, int | None] = (224, 224, 3)
    patch_size: int | tuple[int, int] = 16
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    num_classes: int = 1000
    include_top: bool = True
    pooling: Pooling | None = "token"
    pooling_num_heads: int | None = None
    pooling_mlp_dim: int | None = None
    pooling_prefix_tokens: bool = False
    classifier_activation: Any = "softmax"
    representation_size: int | None = None
    representation_activation: Any = "tanh"
    representation_bias: bool = True
    unit_feature: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_schedule: Literal["linear", "constant"] = "linear"
    patch_dropout_rate: float = 0.0
    position_embedding: Literal["learned", "sincos2d", "sincos2d_mae", "sincos1d", "none"] = "learned"
    prefix_positions: bool = True
    position_grid: tuple[int, int] | None = None
    position_resample: str = "bicubic_antialias"
    rotary: RotaryConfig | dict[str, Any] | None = None
    class_token: bool = True
    distillation_token: bool = False
    num_register_tokens: int = 0
    layer_scale_init: float | None = None
    mlp: Literal["mlp", "swiglu"] = "mlp"
    activation: Any = None
    qkv_bias: bool | Literal["query_value"] = True
    projection_bias: bool = True
    patch_bias: bool = True
    qk_norm: bool = False
    norm_first: bool = True
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-6
    norm_embeddings: bool | Literal["patches"] = False
    norm_after_pooling: bool = False
    mlp_norm: bool = False
    attention_norm: bool = False
    norm_branches: bool = False
    final_norm: bool = True
    stem: ConvStemConfig | ResNetStemConfig | dict[str, Any] | None = None
    dynamic_padding: bool = False
    token_merging: int | tuple[int, ...] | None = None
    naflex: bool = False
    remat: bool = False
    include_preprocessing: bool = True
    preprocessing: dict[str, Any] | None = None  # complete, after `__post_init__`
    class_names: tuple[str, ...] | None = None
    data_format: Literal["channels_last", "channels_first"] | None = None
    dtype: Any = None
    name: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "preprocessing" or isinstance(value, dict):  # otherwise the error should show the value as it was given
                self._set(field.name, _plain(unshared(value)))
        self._set("stem", stem_config(self.stem))
        self._set("rotary", rotary_config(self.rotary))
        self._set("data_format", self.data_format or keras.config.image_data_format())
        _check(self)
        self._set("preprocessing", {**PREPROCESSING, **(self.preprocessing or {})})

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    # Other forms

    @classmethod
    def from_dict(cls, arguments: dict[str, Any]) -> ViTConfig:
        """Returns the configuration for a dict of arguments. Missing arguments take their defaults.

        Raises:
            ValueError: if a key is not an argument, or a value is wrong.
        """
        if unknown := [name for name in arguments if name not in NAMES]:
            near = nearest(unknown[0], NAMES)
            received = f"Received: {', '.join(unknown)}. The nearest are {', '.join(near[:3])}"
            raise UnknownArgument(f"VisionTransformer does not have these arguments. {received}")
        return cls(**arguments)

    @classmethod
    def from_arguments(cls, *args: Any, **kwargs: Any) -> ViTConfig:
        """Returns the configuration for arguments of the constructor. For unknown arguments, the error suggests the nearest."""
        if len(args) > len(NAMES):
            raise ValueError(f"VisionTransformer takes {len(NAMES)} arguments. Received: {len(args)}")
        positional = dict(zip(NAMES, args))
        if twice := sorted(set(positional) & set(kwargs)):
            raise ValueError(f"An argument must be given only once. Received: {twice[0]}, both by position and by name")
        return cls.from_dict({**positional, **kwargs})

    @classmethod
    def of(cls, model: Any, **changes: Any) -> ViTConfig:
        """Returns the configuration of a model, a preset's name, a dict of arguments or a configuration.

        Args:
            model: a `VisionTransformer`, str, dict or `ViTConfig`.
            **changes: arguments that override the model's.

        Raises:
            ValueError: if `model` is none of these, or the preset or an argument is unknown or wrong.
        """
        model = getattr(model, "config", model)
        if isinstance(model, ViTConfig):
            return model.replace(**changes) if changes else model
        if isinstance(model, str):
            model = preset(model)
        if not isinstance(model, dict):
            raise ValueError(
                f"A model must be a VisionTransformer, the name of a preset, or a dict of arguments. Received: a {type(model).__name__}"
            )
        return cls.from_dict({**model, **changes})

    def replace(self, **changes: Any) -> ViTConfig:
        """Returns this configuration with some arguments changed. Another number of classes clears `class_names`.

        Raises:
            ValueError: if an argument is unknown or wrong.
        """
        if changes.get("num_classes", self.num_classes) != self.num_classes:
            changes.setdefault("class_names", None)
        return self.from_dict({**self._fields(), **changes})

    def override(self, **changes: Any) -> ViTConfig:
        """Returns this configuration with some arguments changed, as `replace`, but `num_classes` also adds a head."""
        implied = {"include_top": True} if "num_classes" in changes else {}
        return self.replace(**{**implied, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Returns all arguments as values that JSON can hold, for `from_dict`."""
        dtype = keras.dtype_policies.serialize(self.dtype) if isinstance(self.dtype, keras.DTypePolicy) else self.dtype
        named: dict[str, Any] = {name: activations.config(getattr(self, name)) for name in FUNCTIONS}
        named |= {"stem": stem_dict(self.stem), "rotary": rotary_dict(rotary_config(self.rotary))}
        return {**self._fields(), **named, "dtype": _plain(unshared(dtype))}

    def _fields(self):
        return {name: getattr(self, name) for name in NAMES}

    # Values that follow from the arguments

    @property
    def channels(self) -> int:
        """Channels of the images."""
        channels = self.input_shape[0 if self.data_format == "channels_first" else -1]
        assert channels is not None  # `input_shape` is checked
        return channels

    @property
    def image_size(self) -> tuple[int | None, int | None]:
        """(rows, columns) of the images in pixels; None where `input_shape` is open."""
        return self.input_shape[1:] if self.data_format == "channels_first" else self.input_shape[:2]

    @property
    def patch(self) -> tuple[int, int]:
        """(rows, columns) of a patch, in pixels of the image or of the stem's output."""
        return checks.positive_pair("patch_size", self.patch_size)

    @property
    def stride(self) -> int:
        """Stride of the stem in pixels of the image; 1 without a stem."""
        stem = stem_config(self.stem)
        return 1 if stem is None else stem.stride

    @property
    def grid_size(self) -> tuple[int | None, int | None]:
        """(rows, columns) of patches; None where `input_shape` is open.

        Raises:
            ValueError: if the patch does not divide the image.
        """
        sides = [side if side is None else math.ceil(side / self.stride) for side in self.image_size]
        if not self.dynamic_padding and any(side is not None and side % patch for side, patch in zip(sides, self.patch)):
            after_stem = f" after a stem of stride {self.stride}" if self.stem is not None else ""
            raise ValueError(
                f"The patch must divide the image. Received: input_shape={self.input_shape}, patch_size={self.patch_size}{after_stem}. "
                "`dynamic_padding=True` pads the image"
            )
        rows, columns = (side if side is None else math.ceil(side / patch) for side, patch in zip(sides, self.patch))
        return rows, columns

    @property
    def table_grid(self) -> tuple[int, int]:
        """(rows, columns) of the learned positions: `position_grid`, the image's grid, or that of 224 pixels if `input_shape` is open."""
        if self.position_grid is not None:
            return checks.positive_pair("position_grid", self.position_grid)
        (rows, columns), (height, width) = self.grid_size, self.patch
        if rows is None or columns is None:
            return 224 // (self.stride * height), 224 // (self.stride * width)
        return rows, columns

    @property
    def num_class_tokens(self) -> int:
        """Number of class and distillation tokens."""
        return int(self.class_token) + int(self.distillation_token)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: class, distillation and register tokens."""
        return self.num_class_tokens + self.num_register_tokens

    @property
    def num_patches(self) -> int | None:
        """Number of patches; None where `input_shape` is open."""
        rows, columns = self.grid_size
        return None if rows is None or columns is None else rows * columns

    @property
    def num_tokens(self) -> int | None:
        """Number of prefix tokens and patches; None where `input_shape` is open."""
        return None if self.num_patches is None else self.num_prefix_tokens + self.num_patches

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature, which the head or `representation_size` reads."""
        return 2 * self.hidden_dim if self.pooling == "token_gap" else self.hidden_dim

    @property
    def drop_path_rates(self) -> tuple[float, ...]:
        """The drop-path rate of each block."""
        first = 0.0 if self.drop_path_schedule == "linear" else self.drop_path_rate
        return tuple(np.linspace(first, self.drop_path_rate, self.num_layers).tolist())

    @property
    def merged_tokens(self) -> tuple[int, ...]:
        """The number of tokens that each block merges; zeros without `token_merging`."""
        if self.token_merging is None or isinstance(self.token_merging, int):
            return (self.token_merging or 0,) * self.num_layers
        return (*self.token_merging, *(0,) * (self.num_layers - len(self.token_merging)))

    def per_channel(self, key: str) -> np.ndarray:
        """Returns `preprocessing[key]` for each channel, of shape (1, 1, channels). For images that are not RGB, colors are averaged.

        It has three axes because Keras's `Rescaling` would transpose a vector if Keras's image data format is "channels_first".
        """
        values = np.atleast_1d(np.asarray({**PREPROCESSING, **(self.preprocessing or {})}[key]))
        values = values if len(values) == self.channels else np.full(self.channels, values.mean())
        return values.reshape((1, 1, self.channels))


FIELDS = dataclasses.fields(ViTConfig)
NAMES = tuple(field.name for field in FIELDS)


def _plain(value):
    """Returns a value with Python numbers for NumPy numbers, which JSON cannot hold, and tuples for the lists of JSON."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _check(c):
    checks.one_of("data_format", c.data_format, DATA_FORMATS)
    shape: tuple = c.input_shape if isinstance(c.input_shape, tuple) else ()
    channels, sides = (shape[:1], shape[1:]) if c.data_format == "channels_first" else (shape[-1:], shape[:-1])
    if len(shape) != 3 or not checks.is_int(channels[0]) or not all(side is None or checks.is_int(side) for side in sides):
        order = "(channels, height, width)" if c.data_format == "channels_first" else "(height, width, channels)"
        raise ValueError(f"`input_shape` must be {order}, where only height and width may be None. Received: input_shape={c.input_shape}")
    for name in ("hidden_dim", "num_layers", "num_heads", "mlp_dim", "num_classes"):
        checks.integer(name, getattr(c, name))
    for name in ("representation_size", "pooling_num_heads", "pooling_mlp_dim"):
        if getattr(c, name) is not None:
            checks.integer(name, getattr(c, name))
    for field in FIELDS:
        if field.type == "bool":
            checks.one_of(field.name, getattr(c, field.name), (True, False))
    checks.integer("num_register_tokens", c.num_register_tokens, least=0)
    checks.positive_pair("patch_size", c.patch_size)
    checks.divides("num_heads", c.num_heads, "hidden_dim", c.hidden_dim)
    checks.divides("pooling_num_heads", c.pooling_num_heads or 1, "hidden_dim", c.hidden_dim)
    checks.norm_branches(c.norm_branches, c.norm_first)
    for name in NAMES:
        if name.endswith("_rate"):
            checks.rate(name, getattr(c, name))
    checks.one_of("pooling", c.pooling, POOLINGS)
    checks.one_of("drop_path_schedule", c.drop_path_schedule, DROP_PATH_SCHEDULES)
    checks.one_of("position_embedding", c.position_embedding, (*KINDS, "none"))
    checks.one_of("position_resample", c.position_resample, METHODS)
    checks.one_of("mlp", c.mlp, ("mlp", "swiglu"))
    checks.one_of("qkv_bias", c.qkv_bias, QKV_BIASES)
    checks.one_of("norm", c.norm, NORMS)
    checks.one_of("norm_embeddings", c.norm_embeddings, (True, False, "patches"))
    for name in FUNCTIONS:
        activations.get(getattr(c, name), name)
    check_combinations(c)
    check_tokens(c)
    _check_token_merging(c)
    _check_preprocessing(c)
    if c.class_names is not None:
        names = c.class_names if isinstance(c.class_names, tuple) else ()
        if len(names) != c.num_classes or not all(isinstance(name, str) for name in names):
            received = f"{len(names)} names, the first {list(names[:3])}" if names else repr(c.class_names)
            raise ValueError(
                "`class_names` must be None or a sequence of `num_classes` strings. "
                f"Received: class_names={received}, num_classes={c.num_classes}"
            )


def _check_token_merging(c):
    given = c.token_merging
    if given is None:
        return
    numbers = given if isinstance(given, tuple) else (given,)
    if len(numbers) > c.num_layers or not all(checks.is_int(r, 0) for r in numbers):
        raise ValueError(
            "`token_merging` must be None, the number of tokens that each block merges, or a sequence of such numbers, "
            f"at most one for each of the {c.num_layers} blocks. Received: token_merging={given!r}"
        )
    if any(numbers) and c.rotary is not None:
        raise ValueError(
            f"`token_merging` does not support `rotary`: merged tokens have no single position. "
            f"Received: token_merging={given!r}, rotary={c.rotary}"
        )
    if any(numbers) and c.naflex:
        raise ValueError(f"`token_merging` does not support `naflex`. Received: token_merging={given!r}, naflex=True")
    if any(numbers) and c.remat:
        raise ValueError(f"`token_merging` is for inference, and `remat` for training. Received: token_merging={given!r}, remat=True")


def _check_preprocessing(c):
    given = {} if c.preprocessing is None else c.preprocessing
    if not isinstance(given, dict) or not set(given) <= set(PREPROCESSING):
        keys = ", ".join(map(repr, PREPROCESSING))
        raise ValueError(f"`preprocessing` must be None or a dict with keys of {keys}. Received: preprocessing={c.preprocessing!r}")
    for key in ("mean", "std"):
        values = np.atleast_1d(np.asarray(given.get(key, PREPROCESSING[key])))
        if values.dtype.kind not in "iuf" or values.shape not in ((1,), (3,), (c.channels,)) or (key == "std" and values.min() <= 0):
            rule = "one number, or one per channel" + (", above 0" if key == "std" else "")
            raise ValueError(f"`preprocessing[{key!r}]` must hold {rule}. Received: {given[key]!r}")
