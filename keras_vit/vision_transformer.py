"""The Vision Transformer: one model class for the plain, hybrid, distilled and self-supervised ones."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_vit.image_input import ChecksImages
from keras_vit.layers import (
    AttentionPooling,
    ClassToken,
    ConvStem,
    Dropout,
    LayerNormalization,
    PatchDropout,
    PatchEmbedding,
    PositionEmbedding,
    RegisterTokens,
    ResNetStem,
    TransformerEncoderBlock,
    activations,
    checks,
)
from keras_vit.layers.position_embedding import KINDS
from keras_vit.layers.resampling import METHODS
from keras_vit.layers.sublayers import KeepsSublayers, unshared
from keras_vit.runtime import precision
from keras_vit.runtime.trainer import Trainer

STEMS = {"conv": ConvStem, "resnet": ResNetStem}
POOLINGS = ("token", "gap", "token_gap", "map", None)
DROP_PATH_SCHEDULES = ("linear", "constant")
PREPROCESSING = {"mean": 0.5, "std": 0.5, "size": None, "interpolation": "bicubic", "crop_fraction": 0.875, "crop_mode": "center"}


@keras.saving.register_keras_serializable(package="keras_vit")
class VisionTransformer(KeepsSublayers, ChecksImages, Trainer, keras.Model):
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
            them); "gap" averages the patch tokens; "token_gap" puts both side by side, as DINOv2's linear classifiers read them; "map"
            pools the patch tokens by attention; None pools nothing and needs `include_top=False`.
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
            one per channel, of pixels between 0 and 1), and what `keras_vit.data.evaluation_transform` reads: "size" (int, pixels, where
            `input_shape` is open), "interpolation", "crop_fraction", "crop_mode". Missing entries are those of Google's models.
        class_names: sequence of `num_classes` strings, or None. Names of the classes, in the order of the outputs. They are saved with
            the model.
        data_format: "channels_last" or "channels_first", of the images; None takes Keras's setting.
        dtype: policy of all layers, such as "mixed_bfloat16". The output of a head is float32 all the same.
        name: str.

    Attributes:
        grid_size: (rows, columns) of patches; None where `input_shape` is open.
        num_prefix_tokens: int. Class, distillation and register tokens.
        preprocessing: dict, complete.
        class_names: tuple of `num_classes` strings, or None.

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
        class_names=None,
        data_format=None,
        dtype=None,
        name=None,
    ):
        data_format = data_format or keras.config.image_data_format()
        config = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        _check(**config)
        given = keras.config.dtype_policy() if dtype is None else keras.dtype_policies.get(dtype)
        policy = dict(dtype=precision.policy(given))
        full_precision = keras.backend.result_type(policy["dtype"].compute_dtype, "float32")
        channels = input_shape[0 if data_format == "channels_first" else -1]
        preprocessing = {**PREPROCESSING, **(preprocessing or {})}
        num_class_tokens = int(class_token) + int(distillation_token)
        num_prefix_tokens = num_class_tokens + num_register_tokens

        images = keras.Input(input_shape, name="images")
        x = images
        # Both in float32, so that half precision does not round pixels.
        if data_format == "channels_first":
            x = keras.layers.Permute((2, 3, 1), dtype=full_precision, name="channels_last")(x)
        if include_preprocessing:
            mean, std = (_per_channel(preprocessing, key, channels) for key in ("mean", "std"))
            x = keras.layers.Rescaling(1.0 / (255.0 * std), -mean / std, dtype=full_precision, name="preprocessing")(x)
        if stem is not None:
            stem = make_stem(stem, name="stem", **policy)
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
            tokens = Dropout(dropout_rate, name="embedding_dropout", **policy)(tokens)
        if patch_dropout_rate:
            tokens = PatchDropout(patch_dropout_rate, num_prefix_tokens, name="patch_dropout", **policy)(tokens)
        if norm_embeddings:
            tokens = LayerNormalization(epsilon=norm_epsilon, name="embedding_norm", **policy)(tokens)

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
        norm = LayerNormalization(epsilon=norm_epsilon, name="norm", **policy)
        # `get_layer("norm").output` is this node, of all tokens, also where the head reads another.
        normalised = norm(tokens)
        if pooling is None:
            feature = normalised
        elif pooling == "token":
            # What no head reads is not computed in the last block: exact, and a twelfth of B/16's work less.
            read = block(before_last, num_queries=num_class_tokens)
            feature = read if norm_after_pooling else norm(read)
        else:
            read = tokens if norm_after_pooling else normalised
            patch_tokens = read[:, num_prefix_tokens:] if num_prefix_tokens else read
            if pooling == "map":
                pool = AttentionPooling(num_heads, mlp_dim, activation or "gelu", norm_epsilon, name="attention_pooling", **policy)
                feature = pool(patch_tokens)
            else:
                feature = ops.mean(patch_tokens, axis=1)
            if pooling == "token_gap":
                feature = ops.concatenate([read[:, 0], feature], axis=-1)
        if pooling == "token" and not (include_top and distillation_token):
            feature = ops.mean(feature, axis=1) if distillation_token else feature[:, 0]
        if norm_after_pooling and pooling is not None:
            feature = norm(feature)
        if representation_size:
            feature = keras.layers.Dense(int(representation_size), "tanh", kernel_initializer="lecun_normal", name="pre_logits", **policy)(
                feature
            )

        if include_top:
            head = dict(kernel_initializer="zeros", **policy)
            if distillation_token:
                class_logits = keras.layers.Dense(int(num_classes), name="head", **head)(feature[:, 0])
                distillation_logits = keras.layers.Dense(int(num_classes), name="distillation_head", **head)(feature[:, 1])
                logits = keras.layers.Average(name="mean_logits", **policy)([class_logits, distillation_logits])
            else:
                logits = keras.layers.Dense(int(num_classes), name="head", **head)(feature)
            predictions = activations.get(classifier_activation)
            outputs = keras.layers.Activation(predictions, dtype=full_precision, name="predictions")(logits)
        else:
            outputs = feature

        super().__init__(inputs=images, outputs=outputs, name=name)
        if channels != 1:
            # Keras's own would let an image of one channel pass for one of three.
            self.input_spec = [keras.layers.InputSpec(shape=images.shape, name="images")]
        config["dtype"] = keras.dtype_policies.serialize(given)
        for key in ("activation", "classifier_activation"):
            config[key] = activations.config(config[key])
        self._config = _plain(unshared(config))
        self.grid_size = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.preprocessing = preprocessing
        self.class_names = self._config["class_names"]
        self.sublayers_built()

    def adapt(self, **changes):
        """Returns a new model, of this one's arguments but for `changes`, that carries this one's weights over.

        Positions are resampled if the grid changes and the patch kernel if the patch does. A head for another number of classes, and
        any layer that this model has not, starts new. Layers that are frozen, quantized or of another precision stay so; low-rank updates
        (`keras_vit.training.add_lora`) are merged into their kernels.

        Args:
            **changes: arguments of `VisionTransformer`, such as `num_classes`, `input_shape`, `patch_size`, `drop_path_rate`.
                `num_classes` asks for a head, also of a model that has none.

        Returns:
            A `VisionTransformer`, or a model of the same subclass of it, not compiled.

        Raises:
            ValueError: if a change is wrong, gives weights a shape that they cannot be brought to, or if a subclass cannot be built from
                its `get_config`.

        Example:
        >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128)
        >>> model.adapt(num_classes=10, input_shape=(48, 64, 3)).grid_size
        (6, 8)
        """
        config = {key: value for key, value in self.get_config().items() if key not in ("trainable", "sublayers")}
        if unknown := sorted(set(changes) - set(config)):
            raise ValueError(f"`adapt` takes arguments of VisionTransformer. Received: {', '.join(unknown)}")
        if "num_classes" in changes:
            changes.setdefault("include_top", True)
        if changes.get("num_classes", self._config["num_classes"]) != self._config["num_classes"]:
            changes.setdefault("class_names", None)  # the names are of other classes
        try:
            model = type(self).from_config({**config, "name": None, **changes})
        except TypeError as error:
            cls = type(self).__name__
            raise ValueError(
                f"`adapt` builds the new model by `{cls}.from_config`, which failed: {error}. Give {cls} a `get_config` with all arguments "
                "of its constructor."
            ) from error
        heads = ("head", "distillation_head") if model._config["num_classes"] != self._config["num_classes"] else ()
        mine, changed = {layer.name: layer for layer in self.layers}, self._changed_sublayers()
        carried = [layer for layer in model.layers if layer.name in mine and layer.name not in heads]
        model.trainable = self.trainable or any(layer.weights for layer in model.layers if layer not in carried)
        for layer in carried:
            source = mine[layer.name]
            layer.trainable = source.trainable
            built, now = self._as_built[layer.name], unshared(layer.get_config())
            wanted = {key: value for key, value in changed.get(layer.name, {}).items() if built.get(key) == now.get(key)}
            model.restore_sublayers({layer.name: _kept(wanted, layer)})
            _carry_over(source, layer)
        return model

    def get_config(self):
        """Returns the constructor's arguments; where they are changed, also "trainable" and "sublayers": see `KeepsSublayers`."""
        changed = self._changed_sublayers()
        return {**self._config, **({} if self.trainable else {"trainable": False}), **({"sublayers": changed} if changed else {})}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        trainable, sublayers = config.pop("trainable", True), config.pop("sublayers", {})
        model = cls(**config)
        if not trainable:
            model.trainable = False
        model.restore_sublayers(sublayers)
        return model


def _kept(changes, layer):
    """Returns the changes of a layer's configuration that `adapt` keeps: not low-rank updates, nor those of sublayers that are gone."""
    sublayers = {child.name: child for child in layer._layers}
    changes = {key: value for key, value in changes.items() if key not in ("lora_rank", "lora_alpha")}
    kept = {name: _kept(changes, sublayers[name]) for name, changes in changes.pop("sublayers", {}).items() if name in sublayers}
    return {**changes, **({"sublayers": kept} if kept else {})}


def _carry_over(source, target):
    """Copies a layer's weights, and its sublayers', into a layer that may be of another size: the layer that owns a weight resizes it."""
    store = {}
    source.save_own_variables(store)
    if store:
        try:
            target.load_own_variables(store)
        except ValueError as error:
            raise ValueError(f"The weights of layer {source.path!r} do not fit the adapted model: {error}") from error
    mine = {child.name: child for child in source._layers}
    for child in target._layers:
        if child.name in mine:
            _carry_over(mine[child.name], child)


def make_stem(stem, **more):
    """Returns the layer that a dict with "kind" and the layer's arguments stands for.

    Raises:
        ValueError: if the kind or an argument is unknown, or one is missing.
    """
    if not isinstance(stem, dict) or stem.get("kind") not in STEMS:
        raise ValueError(f'`stem` must be None or a dict whose "kind" is one of {", ".join(map(repr, STEMS))}. Received: stem={stem!r}')
    layer, arguments = STEMS[stem["kind"]], {key: value for key, value in stem.items() if key != "kind"}
    parameters = inspect.signature(layer).parameters
    known = [name for name in parameters if name != "kwargs"]
    needed = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    if not set(needed) <= set(arguments) <= set(known):
        takes, needs = ", ".join(known), ", ".join(needed)
        raise ValueError(f"A `stem` of kind {stem['kind']!r} takes {takes}, of which it needs {needs}. Received: stem={stem}")
    return layer(**arguments, **more)


def _grid_of_224(patch_size, stem):
    rows, columns = checks.positive_pair("patch_size", patch_size)
    stride = stem.stride if stem is not None else 1
    return (224 // (stride * rows), 224 // (stride * columns))


def _per_channel(preprocessing, key, channels):
    """Returns one value per channel; colours are averaged for an image that is not RGB."""
    values = np.atleast_1d(np.asarray(preprocessing[key]))
    if values.dtype.kind not in "iuf" or values.shape not in ((1,), (3,), (channels,)) or (key == "std" and values.min() <= 0):
        rule = "one number, or one per channel" + (", above 0" if key == "std" else "")
        raise ValueError(f"`preprocessing[{key!r}]` must hold {rule}. Received: {preprocessing[key]!r}")
    values = values if len(values) == channels else np.full(channels, values.mean())
    # Of three axes, because Rescaling turns a vector round when Keras's setting is "channels_first".
    return values.reshape((1, 1, channels))


def _plain(value):
    """Returns a value with Python's numbers in place of numpy's, which would not go into a JSON file, and tuples for what JSON gave."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _check(
    input_shape,
    hidden_dim,
    num_layers,
    num_heads,
    mlp_dim,
    num_classes,
    include_top,
    pooling,
    classifier_activation,
    representation_size,
    drop_path_schedule,
    position_embedding,
    position_grid,
    position_resample,
    class_token,
    distillation_token,
    num_register_tokens,
    stem,
    preprocessing,
    class_names,
    data_format,
    **others,
):
    checks.one_of("data_format", data_format, ("channels_last", "channels_first"))
    shape = tuple(input_shape) if isinstance(input_shape, (list, tuple)) else ()
    channels, sides = (shape[:1], shape[1:]) if data_format == "channels_first" else (shape[-1:], shape[:-1])
    if len(shape) != 3 or not checks.is_int(channels[0]) or not all(side is None or checks.is_int(side) for side in sides):
        order = "(channels, height, width)" if data_format == "channels_first" else "(height, width, channels)"
        raise ValueError(f"`input_shape` must be {order}, where only height and width may be None. Received: input_shape={input_shape}")
    for name, value in (
        ("hidden_dim", hidden_dim),
        ("num_layers", num_layers),
        ("num_heads", num_heads),
        ("mlp_dim", mlp_dim),
        ("num_classes", num_classes),
        ("representation_size", 1 if representation_size is None else representation_size),
    ):
        checks.integer(name, value)
    checks.integer("num_register_tokens", num_register_tokens, least=0)
    checks.divides("num_heads", num_heads, "hidden_dim", hidden_dim)
    for name, value in others.items():
        if name.endswith("_rate"):
            checks.rate(name, value)
    checks.one_of("pooling", pooling, POOLINGS)
    checks.one_of("drop_path_schedule", drop_path_schedule, DROP_PATH_SCHEDULES)
    checks.one_of("position_embedding", position_embedding, (*KINDS, "none"))
    checks.one_of("position_resample", position_resample, METHODS)
    activations.get(classifier_activation, "classifier_activation")
    if stem is not None:
        make_stem(stem)
    if pooling in ("token", "token_gap") and not class_token:
        raise ValueError(f"This pooling needs a class token. Received: pooling={pooling!r}, class_token=False")
    if pooling == "token_gap" and others["norm_after_pooling"]:
        raise ValueError('`pooling="token_gap"` reads normalised tokens. Received: pooling="token_gap", norm_after_pooling=True')
    if distillation_token and pooling != "token":
        raise ValueError(f'A distillation token needs `pooling="token"`. Received: distillation_token=True, pooling={pooling!r}')
    if include_top and pooling is None:
        raise ValueError(
            "A head needs a pooled feature: choose a `pooling`, or `include_top=False`. Received: include_top=True, pooling=None"
        )
    if position_grid is not None:
        checks.positive_pair("position_grid", position_grid)
        if position_embedding != "learned":
            raise ValueError(
                "`position_grid` is for learned positions; the others are computed for the grid at hand. "
                f"Received: position_grid={position_grid}, position_embedding={position_embedding!r}"
            )
    if preprocessing is not None and (not isinstance(preprocessing, dict) or not set(preprocessing) <= set(PREPROCESSING)):
        keys = ", ".join(map(repr, PREPROCESSING))
        raise ValueError(f"`preprocessing` must be None or a dict with keys of {keys}. Received: preprocessing={preprocessing!r}")
    if class_names is not None:
        names = class_names if isinstance(class_names, (list, tuple)) else ()
        if len(names) != num_classes or not all(isinstance(name, str) for name in names):
            received = f"{len(names)} names, the first {list(names[:3])}" if names else repr(class_names)
            raise ValueError(
                "`class_names` must be None or a sequence of `num_classes` strings. "
                f"Received: class_names={received}, num_classes={num_classes}"
            )
