"""The Vision Transformer: one model class for the plain, hybrid, distilled and self-supervised ones."""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import (
    AttentionPooling,
    ClassToken,
    ConvStem,
    PatchDropout,
    PatchEmbedding,
    PositionEmbedding,
    RegisterTokens,
    ResNetStem,
    TransformerEncoderBlock,
    checks,
)
from keras_vit.layers import (
    position_embedding as positions,
)

STEMS = {"conv": ConvStem, "resnet": ResNetStem}
POOLINGS = ("token", "gap", "map", None)
DROP_PATH_SCHEDULES = ("linear", "constant")
PREPROCESSING = {"mean": 0.5, "std": 0.5, "size": None, "interpolation": "bicubic", "crop_fraction": 0.875}


@keras.saving.register_keras_serializable(package="keras_vit")
class VisionTransformer(keras.Model):
    """A Vision Transformer as a functional Keras model.

    The defaults make ViT-B/16. Layers by name, in order: `stem`, `patch_embedding`, `class_token`, `position_embedding`,
    `register_tokens`, `embedding_norm`, `block_0` ..., `norm`, `attention_pooling`, `pre_logits`, `head` (and `distillation_head`),
    `predictions`.

    Args:
        input_shape: (height, width, channels) in pixels; (channels, height, width) if `data_format` is "channels_first". Height and
            width may be None: one model then takes images of any size that the patch divides.
        patch_size: int or pair of ints, (rows, columns), in pixels of the image or, behind a stem, of the stem's map.
        hidden_dim: int. Width D of a token.
        num_layers: int. Number of encoder blocks.
        num_heads: int, which divides `hidden_dim`.
        mlp_dim: int. Width of the feed-forward networks' hidden layer.
        num_classes: int. Classes of the head.
        include_top: bool. False: the model ends with the pooled feature, or with the token sequence if `pooling` is None.
        pooling: "token" reads the class token (the mean of class and distillation token where there is one, unless two heads read
            them); "gap" averages the patch tokens; "map" pools by attention; None pools nothing and needs `include_top=False`.
        classifier_activation: activation of the output, or None for logits.
        representation_size: int or None. Width of a dense layer with tanh before the head, as the paper has in pre-training.
        dropout_rate: float in [0, 1). Dropout after the position embedding and at the end of every branch.
        attention_dropout_rate: float in [0, 1). Dropout of attention weights.
        drop_path_rate: float in [0, 1). Stochastic depth: of the last block if the schedule is linear, of every block if constant.
        drop_path_schedule: "linear" from 0 in the first block to `drop_path_rate` in the last, or "constant" (DeiT-III).
        patch_dropout_rate: float in [0, 1). Part of the patch tokens that is left out while training.
        position_embedding: "learned", "sincos2d" (big_vision), "sincos2d_mae", or "none".
        prefix_positions: bool. True, as in the paper and DINOv2: the class token comes first, and positions of it and the patches after.
            False, as in big_vision, DeiT-III and FlexiViT: positions on patches alone, then the class token.
        position_grid: pair of ints or None. Grid of the learned positions, if another than the image's: they are resampled in every
            call. With an open `input_shape` None means the grid of a 224 pixel image.
        position_resample: name of the resampling of positions, see `keras_vit.layers.PositionEmbedding`.
        class_token: bool.
        distillation_token: bool. A second prefix token with a head of its own (DeiT); the output is the mean of both heads.
        num_register_tokens: int.
        layer_scale_init: float or None. See `TransformerEncoderBlock`; so are `mlp`, `qk_norm`, `norm_first`, `norm_epsilon`, `remat`.
        mlp: "mlp" or "swiglu".
        activation: of the feed-forward networks: "gelu" (exact), "gelu_tanh", "quick_gelu", or None for the default of `mlp`.
        qkv_bias: bool. Whether queries, keys and values have biases.
        patch_bias: bool. Whether the patch embedding has one.
        qk_norm: bool.
        norm_first: bool.
        norm_epsilon: float. Epsilon of every layer normalization.
        norm_embeddings: bool. A normalization before the first block (CLIP).
        norm_after_pooling: bool. The last normalization comes after pooling (timm's `fc_norm`) and not before.
        stem: None, or a dict with "kind": "conv" or "resnet" and the arguments of `ConvStem` or `ResNetStem`.
        dynamic_padding: bool. Pads images that the patch does not divide, instead of refusing them.
        remat: bool. Recomputes the blocks' activations in the backward pass.
        include_preprocessing: bool. The model takes raw pixels, 0 to 255, and normalises them itself.
        preprocessing: dict or None. What images go through before the model, as its weights were trained: "mean" and "std" (float or
            one per channel, of pixels between 0 and 1), "size" (int, pixels), "interpolation", "crop_fraction". Missing entries are
            those of Google's models.
        data_format: "channels_last" or "channels_first", of the images; None takes Keras's setting.
        dtype: policy of all layers, such as "mixed_bfloat16". The output is float32 all the same.
        name: str.

    Attributes:
        grid_size: (rows, columns) of patches; None where `input_shape` is open.
        num_prefix_tokens: int. Class, distillation and register tokens.
        preprocessing: dict, complete.

    Returns of a call: `(batch, num_classes)`; `(batch, hidden_dim)` without head; `(batch, tokens, hidden_dim)` if nothing is pooled.

    Raises:
        ValueError: if an argument is out of range or two contradict each other.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> model(keras.ops.ones((2, 32, 32, 3))).shape
    (2, 10)
    """

    def __init__(
        self,
        input_shape=(224, 224, 3),
        patch_size=16,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        mlp_dim=3072,
        num_classes=1000,
        include_top=True,
        pooling="token",
        classifier_activation="softmax",
        representation_size=None,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        drop_path_rate=0.0,
        drop_path_schedule="linear",
        patch_dropout_rate=0.0,
        position_embedding="learned",
        prefix_positions=True,
        position_grid=None,
        position_resample="bicubic_antialias",
        class_token=True,
        distillation_token=False,
        num_register_tokens=0,
        layer_scale_init=None,
        mlp="mlp",
        activation=None,
        qkv_bias=True,
        patch_bias=True,
        qk_norm=False,
        norm_first=True,
        norm_epsilon=1e-6,
        norm_embeddings=False,
        norm_after_pooling=False,
        stem=None,
        dynamic_padding=False,
        remat=False,
        include_preprocessing=True,
        preprocessing=None,
        data_format=None,
        dtype=None,
        name=None,
    ):
        data_format = data_format or keras.config.image_data_format()
        config = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        _check(**config)
        policy = dict(dtype=keras.dtype_policies.get(dtype) if dtype is not None else keras.config.dtype_policy())
        channels = input_shape[0 if data_format == "channels_first" else -1]
        preprocessing = {**PREPROCESSING, **(preprocessing or {})}
        num_class_tokens = class_token + distillation_token
        num_prefix_tokens = num_class_tokens + num_register_tokens

        images = keras.Input(input_shape, name="images")
        x = images
        if data_format == "channels_first":
            x = keras.layers.Permute((2, 3, 1), name="channels_last", **policy)(x)
        if include_preprocessing:
            mean, std = (_per_channel(preprocessing, key, channels) for key in ("mean", "std"))
            # In float32, so that half precision does not round pixels.
            x = keras.layers.Rescaling(1.0 / (255.0 * std), -mean / std, dtype="float32", name="preprocessing")(x)
        if stem is not None:
            stem = STEMS[stem["kind"]](**{key: value for key, value in stem.items() if key != "kind"}, name="stem", **policy)
            x = stem(x)
        patches = PatchEmbedding(hidden_dim, patch_size, patch_bias, dynamic_padding, name="patch_embedding", **policy)(x)
        grid = tuple(patches.shape[1:3])
        tokens = keras.layers.Reshape((-1, hidden_dim), name="tokens", **policy)(patches)

        def with_positions(tokens, num_prefix_tokens):
            if position_embedding == "none":
                return tokens
            table_grid = position_grid or (_grid_of_224(patch_size, stem) if None in grid else grid)
            return PositionEmbedding(
                position_embedding, num_prefix_tokens, table_grid, position_resample, name="position_embedding", **policy
            )(tokens, patches)

        if not prefix_positions:
            tokens = with_positions(tokens, 0)
        if num_class_tokens:
            tokens = ClassToken(num_class_tokens, name="class_token", **policy)(tokens)
        if prefix_positions:
            tokens = with_positions(tokens, num_class_tokens)
        if num_register_tokens:
            tokens = RegisterTokens(num_register_tokens, num_class_tokens, name="register_tokens", **policy)(tokens)
        if dropout_rate:
            tokens = keras.layers.Dropout(dropout_rate, name="embedding_dropout", **policy)(tokens)
        if patch_dropout_rate:
            tokens = PatchDropout(patch_dropout_rate, num_prefix_tokens, name="patch_dropout", **policy)(tokens)
        if norm_embeddings:
            tokens = keras.layers.LayerNormalization(epsilon=norm_epsilon, name="embedding_norm", **policy)(tokens)

        drop_path_rates = np.linspace(0.0 if drop_path_schedule == "linear" else drop_path_rate, drop_path_rate, num_layers)
        for i in range(num_layers):
            block = TransformerEncoderBlock(
                num_heads,
                mlp_dim,
                mlp=mlp,
                activation=activation,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                drop_path_rate=float(drop_path_rates[i]),
                layer_scale_init=layer_scale_init,
                use_qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                norm_first=norm_first,
                norm_epsilon=norm_epsilon,
                remat=remat,
                name=f"block_{i}",
                **policy,
            )
            before_last, tokens = tokens, block(tokens)
        norm = keras.layers.LayerNormalization(epsilon=norm_epsilon, name="norm", **policy)
        # `get_layer("norm").output` is this node, of all tokens, also where the head reads another.
        normalised = norm(tokens)
        if pooling is None:
            feature = normalised
        elif pooling == "token":
            # What no head reads is not computed in the last block: exact, and a twelfth of B/16's work less.
            read = block(before_last, num_queries=num_class_tokens)
            feature = read if norm_after_pooling else norm(read)
        elif pooling == "gap":
            feature = ops.mean((tokens if norm_after_pooling else normalised)[:, num_prefix_tokens:], axis=1)
        else:
            pool = AttentionPooling(num_heads, mlp_dim, activation or "gelu", norm_epsilon, name="attention_pooling", **policy)
            feature = pool(tokens if norm_after_pooling else normalised)
        if pooling == "token" and not (include_top and distillation_token):
            feature = ops.mean(feature, axis=1) if distillation_token else feature[:, 0]
        if norm_after_pooling and pooling is not None:
            feature = norm(feature)
        if representation_size:
            feature = keras.layers.Dense(representation_size, "tanh", kernel_initializer="lecun_normal", name="pre_logits", **policy)(
                feature
            )

        if include_top:
            head = dict(kernel_initializer="zeros", **policy)
            if distillation_token:
                class_logits = keras.layers.Dense(num_classes, name="head", **head)(feature[:, 0])
                distillation_logits = keras.layers.Dense(num_classes, name="distillation_head", **head)(feature[:, 1])
                logits = keras.layers.Average(name="mean_logits", **policy)([class_logits, distillation_logits])
            else:
                logits = keras.layers.Dense(num_classes, name="head", **head)(feature)
            full_precision = keras.backend.result_type(policy["dtype"].compute_dtype, "float32")
            outputs = keras.layers.Activation(classifier_activation, dtype=full_precision, name="predictions")(logits)
        else:
            outputs = feature

        super().__init__(inputs=images, outputs=outputs, name=name)
        self._config = {**config, "dtype": keras.dtype_policies.serialize(policy["dtype"])}
        self.grid_size = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.preprocessing = preprocessing

    def adapt(self, **changes):
        """Returns a new model, of this one's arguments but for `changes`, that carries this one's weights over.

        Positions are resampled if the grid changes and the patch kernel if the patch does. A head for another number of classes, and
        any layer that this model has not, starts new.

        Args:
            **changes: arguments of `VisionTransformer`, such as `num_classes`, `input_shape`, `patch_size`, `drop_path_rate`.

        Returns:
            A `VisionTransformer`, not compiled.

        Raises:
            ValueError: if a change is wrong, or gives weights a shape that they cannot be brought to.

        Example:
        >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128)
        >>> model.adapt(num_classes=10, input_shape=(48, 64, 3)).grid_size
        (6, 8)
        """
        if not set(changes) <= set(self._config):
            unknown = sorted(set(changes) - set(self._config))
            raise ValueError(f"`adapt` takes arguments of VisionTransformer. Received: {', '.join(unknown)}")
        config = {**self._config, "name": None, **changes}
        model = VisionTransformer(**config)
        heads = ("head", "distillation_head") if model._config["num_classes"] != self._config["num_classes"] else ()
        mine = {layer.name: layer for layer in self.layers}
        for layer in model.layers:
            if layer.name in mine and layer.name not in heads:
                _carry_over(mine[layer.name], layer)
        return model

    def get_config(self):
        return dict(self._config)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def feature_maps(model, blocks=None, norm=True):
    """Returns a model that gives the patch tokens of some blocks as maps, for dense tasks.

    Args:
        model: a `VisionTransformer`. Its weights are shared, not copied.
        blocks: sequence of ints, the blocks whose output is wanted, counted from 0, or from the end if negative. None: the last.
        norm: bool. Whether the maps go through the model's last normalization, as DINOv2's and timm's intermediate features do.

    Returns:
        A `keras.Model` with one output of shape `(batch, rows, columns, hidden_dim)` for each of `blocks`, in a list if there are several.

    Raises:
        ValueError: if a block does not exist.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 4, 128)
    >>> [map.shape for map in keras_vit.feature_maps(model, blocks=(1, 3))(keras.ops.ones((2, 32, 48, 3)))]
    [(2, 4, 6, 64), (2, 4, 6, 64)]
    """
    count = model.get_config()["num_layers"]
    blocks = (count - 1,) if blocks is None else tuple(blocks)
    if not blocks or not all(-count <= i < count for i in blocks):
        raise ValueError(f"`blocks` must be numbers of blocks between {-count} and {count - 1}. Received: blocks={blocks}")
    patches = model.get_layer("patch_embedding").output
    to_map = PatchMap(model.num_prefix_tokens, name="patch_map")
    maps = []
    for i in blocks:
        tokens = model.get_layer(f"block_{i % count}").output
        maps.append(to_map(model.get_layer("norm")(tokens) if norm else tokens, patches))
    return keras.Model(model.input, maps if len(maps) > 1 else maps[0], name=f"{model.name}_feature_maps")


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchMap(keras.layers.Layer):
    """Drops the prefix tokens and lays the patch tokens out on their grid.

    Args:
        num_prefix_tokens: int.

    Call arguments:
        tokens: `(batch, num_prefix_tokens + rows * columns, D)`.
        patches: `(batch, rows, columns, ...)`: only its grid is read.

    Output shape: `(batch, rows, columns, D)`.
    """

    def __init__(self, num_prefix_tokens, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def call(self, tokens, patches):
        batch, rows, columns = ops.shape(patches)[:3]
        return ops.reshape(tokens[:, self.num_prefix_tokens :], (batch, rows, columns, tokens.shape[-1]))

    def compute_output_shape(self, tokens_shape, patches_shape):
        return (*patches_shape[:3], tokens_shape[-1])

    def get_config(self):
        return {**super().get_config(), "num_prefix_tokens": self.num_prefix_tokens}


def _carry_over(source, target):
    """Copies a layer's weights, and its sublayers', into a layer that may be of another size: the layer that owns a weight resizes it."""
    store = {}
    source.save_own_variables(store)
    if store:
        try:
            target.load_own_variables(store)
        except ValueError as error:
            raise ValueError(f"The weights of layer {source.path!r} do not fit the adapted model: {error}") from error
    for child in source._layers:
        _carry_over(child, next(layer for layer in target._layers if layer.name == child.name))


def _grid_of_224(patch_size, stem):
    rows, columns = checks.positive_pair("patch_size", patch_size)
    stride = stem.stride if stem is not None else 1
    return (224 // (stride * rows), 224 // (stride * columns))


def _per_channel(preprocessing, key, channels):
    """Returns one value per channel; colours are averaged for an image that is not RGB."""
    values = np.atleast_1d(np.asarray(preprocessing[key], "float64"))
    if len(values) not in (1, 3, channels):
        raise ValueError(f"`preprocessing[{key!r}]` must hold one number, or one per channel. Received: {preprocessing[key]}")
    return values if len(values) == channels else np.full(channels, values.mean())


def _check(
    input_shape,
    hidden_dim,
    num_layers,
    num_heads,
    num_classes,
    include_top,
    pooling,
    representation_size,
    drop_path_schedule,
    position_embedding,
    class_token,
    distillation_token,
    num_register_tokens,
    stem,
    preprocessing,
    data_format,
    **others,
):
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(f'`data_format` must be "channels_last" or "channels_first". Received: data_format={data_format!r}')
    shape = tuple(input_shape) if isinstance(input_shape, (list, tuple)) else ()
    channels, sides = (shape[:1], shape[1:]) if data_format == "channels_first" else (shape[-1:], shape[:-1])
    if len(shape) != 3 or not _positive(channels[0]) or not all(side is None or _positive(side) for side in sides):
        order = "(channels, height, width)" if data_format == "channels_first" else "(height, width, channels)"
        raise ValueError(f"`input_shape` must be {order}, where only height and width may be None. Received: input_shape={input_shape}")
    for name, value in (("hidden_dim", hidden_dim), ("num_layers", num_layers), ("num_heads", num_heads), ("num_classes", num_classes)):
        if not _positive(value):
            raise ValueError(f"`{name}` must be a positive int. Received: {name}={value}")
    checks.divides("num_heads", num_heads, "hidden_dim", hidden_dim)
    for name, value in others.items():
        if name.endswith("_rate"):
            checks.rate(name, value)
    if representation_size is not None and not _positive(representation_size):
        raise ValueError(f"`representation_size` must be a positive int or None. Received: representation_size={representation_size}")
    if num_register_tokens < 0:
        raise ValueError(f"`num_register_tokens` must not be negative. Received: num_register_tokens={num_register_tokens}")
    for name, value, known in (
        ("pooling", pooling, POOLINGS),
        ("drop_path_schedule", drop_path_schedule, DROP_PATH_SCHEDULES),
        ("position_embedding", position_embedding, (*positions.KINDS, "none")),
        ("stem", stem if stem is None else stem.get("kind"), (None, *STEMS)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    if pooling == "token" and not class_token:
        raise ValueError('`pooling="token"` needs a class token. Received: pooling="token", class_token=False')
    if distillation_token and pooling != "token":
        raise ValueError(f'A distillation token needs `pooling="token"`. Received: distillation_token=True, pooling={pooling!r}')
    if include_top and pooling is None:
        raise ValueError(
            "A head needs a pooled feature: choose a `pooling`, or `include_top=False`. Received: include_top=True, pooling=None"
        )
    if unknown := set(preprocessing or {}) - set(PREPROCESSING):
        raise ValueError(f"`preprocessing` takes the keys {sorted(PREPROCESSING)}. Received: {sorted(unknown)}")


def _positive(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0
