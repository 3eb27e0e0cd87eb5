"""The Vision Transformer: one model class for plain, hybrid, distilled and self-supervised variants."""

import inspect

import keras

from keras_vit.config import FIELDS, NAMES, ViTConfig
from keras_vit.image_input import ChecksImages
from keras_vit.inputs import model_inputs, patches_of, rotations_of
from keras_vit.layers import (
    ClassToken,
    Dropout,
    PatchDropout,
    PositionEmbedding,
    RegisterTokens,
    TokenMergingBlock,
    TransformerEncoderBlock,
    UnmergeTokens,
)
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.masks import TokenMask
from keras_vit.layers.sublayers import KeepsSublayers, carry_over, kept_changes, unshared
from keras_vit.outputs import class_feature, classify, pool
from keras_vit.runtime import precision
from keras_vit.runtime.keras_seams import quick_deletion
from keras_vit.runtime.trainer import Trainer


@keras.saving.register_keras_serializable(package="keras_vit")
class VisionTransformer(KeepsSublayers, ChecksImages, Trainer, keras.Model):
    """A Vision Transformer as a functional Keras model.

    The defaults make ViT-B/16. Its layers are, in order: `stem`, `patch_embedding`, `class_token`,
    `position_embedding`, `register_tokens`, `rotary_position_embedding`, `embedding_norm`,
    `block_0` ..., `norm`, `attention_pooling`, `pre_logits`, `head` (and `distillation_head`),
    `predictions`. A layer that an argument turns off does not exist.

    Args:
        input_shape: tuple, (height, width, channels) in pixels; (channels, height, width) if
            `data_format` is "channels_first". Height and width may be None: the model then takes
            images of any size that the patch divides. Defaults to (224, 224, 3).
        patch_size: int or pair of ints, (rows, columns), in pixels of the image or, with a stem, of
            the stem's output. Defaults to 16.
        hidden_dim: int. Width D of a token. Defaults to 768.
        num_layers: int. Number of encoder blocks. Defaults to 12.
        num_heads: int. Number of attention heads; it must divide `hidden_dim`. Defaults to 12.
        mlp_dim: int. Width of the feed-forward networks' hidden layer. Defaults to 3072.
        num_classes: int. Number of classes of the head. Defaults to 1000.
        include_top: bool. Whether the model ends with its head. If False, it ends with the pooled
            feature, or with all tokens if `pooling` is None. Defaults to True.
        pooling: str or None. The feature that the head reads. "token": the class token (with a
            distillation token, the mean of both, unless each has its own head). "gap": the mean of
            the patch tokens. "token_gap": both, concatenated, as in DINOv2's linear classifiers.
            "map": the patch tokens, pooled by attention. None: all tokens; this needs
            `include_top=False`. Defaults to "token".
        pooling_num_heads: int or None. Number of attention heads of `pooling="map"`. Defaults to
            None, `num_heads`.
        pooling_mlp_dim: int or None. Width of the hidden layer of the feed-forward network of
            `pooling="map"`. Defaults to None, `mlp_dim`.
        pooling_prefix_tokens: bool. Whether `pooling="map"` also pools class and register tokens,
            as Perception Encoder does. Defaults to False.
        classifier_activation: str, callable or None. Activation of the output; None returns logits.
            Defaults to "softmax".
        representation_size: int or None. Width of a dense layer between the pooled feature and the
            head. The paper's pre-training has one with tanh, and CLIP one that projects to the
            embedding space of its text tower. Defaults to None, no such layer.
        representation_activation: str, callable or None. Activation of that layer; None makes it a
            linear projection, as CLIP's. Defaults to "tanh".
        representation_bias: bool. Whether that layer has a bias. Defaults to True.
        unit_feature: bool. Whether the feature is normalized to length 1 before the head, so that
            logits are scaled cosines, as in `keras_vit.zero_shot`. Defaults to False.
        dropout_rate: float in [0, 1). Dropout after the position embedding and at the end of every
            branch. Defaults to 0.
        attention_dropout_rate: float in [0, 1). Dropout of attention weights. Defaults to 0.
        drop_path_rate: float in [0, 1). Rate of stochastic depth: that of the last block if
            `drop_path_schedule` is "linear", that of every block if it is "constant". Defaults to
            0.
        drop_path_schedule: "linear", from 0 in the first block to `drop_path_rate` in the last, or
            "constant", as in DeiT-III. Defaults to "linear".
        patch_dropout_rate: float in [0, 1). Share of the patch tokens that are dropped in training.
            Defaults to 0.
        position_embedding: "learned", "sincos2d" (big_vision), "sincos2d_mae", "sincos1d" (the
            original Transformer's) or "none". Defaults to "learned".
        prefix_positions: bool. Whether class and distillation token have positions, too, as in the
            paper and DINOv2. If False, only patches have positions, as in big_vision, DeiT-III and
            FlexiViT. Defaults to True.
        position_grid: pair of ints or None. Grid of the learned positions. If it differs from the
            image's, every call resamples them. Defaults to None, the grid of the image, or that of
            224 pixels if `input_shape` is open.
        position_resample: str. Method that resamples positions, see
            `keras_vit.layers.PositionEmbedding`. Defaults to "bicubic_antialias".
        rotary: dict or None. Arguments of `keras_vit.layers.RotaryPositionEmbedding`, which rotates
            queries and keys, instead of or in addition to `position_embedding`. Such as
            `{"coordinates": "normalized", "base": 100.0}` (DINOv3). Defaults to None, no rotation.
        class_token: bool. Whether the model has a class token. Defaults to True.
        distillation_token: bool. Whether the model has a second prefix token with its own head
            (DeiT). The output is then the mean of both heads. Defaults to False.
        num_register_tokens: int. Number of register tokens, which no head reads. Defaults to 0.
        layer_scale_init: float or None. Initial value of LayerScale, a factor per channel at the
            end of every residual branch. Defaults to None, no LayerScale.
        mlp: "mlp" or "swiglu". Kind of the feed-forward networks. Defaults to "mlp".
        activation: str, callable or None. Activation of the feed-forward networks, such as "gelu"
            (exact), "gelu_tanh" or "quick_gelu". Defaults to None: "silu" for "swiglu", "gelu" for
            "mlp".
        qkv_bias: bool or "query_value". Whether queries, keys and values have biases;
            with "query_value", keys have none (EVA, DINOv3). Defaults to True.
        projection_bias: bool. Whether attention's projections and the feed-forward networks have
            biases. Defaults to True.
        patch_bias: bool. Whether the patch embedding has a bias. Defaults to True.
        qk_norm: bool. Whether queries and keys are normalized. Defaults to False.
        norm_first: bool. Whether a block normalizes the input of each branch (pre-norm). If False,
            it normalizes the sum (post-norm). Defaults to True.
        norm: "layer" or "rms". Kind of every normalization: by mean and variance, or by the mean
            square alone (AIMv2). Defaults to "layer".
        norm_epsilon: float. Epsilon of every normalization. Defaults to 1e-6.
        norm_embeddings: bool or "patches". Whether tokens are normalized before the first block
            (CLIP); "patches" normalizes the patches before positions are added to them (AIMv2).
            Defaults to False.
        norm_after_pooling: bool. Whether the last normalization comes after pooling (timm's
            `fc_norm`) instead of before. Defaults to False.
        mlp_norm: bool. Whether feed-forward networks normalize their hidden layer before the last
            product (EVA-02). Defaults to False.
        attention_norm: bool. Whether attention's output is normalized before its projection
            (EVA-02's CLIP). Defaults to False.
        norm_branches: bool. Whether a block normalizes the output of each branch before the sum
            (EVA-02-E). It needs `norm_first=False`. Defaults to False.
        final_norm: bool. Whether there is a normalization after the last block. Defaults to True.
        stem: dict or None. Layers before the patch embedding: "kind" is "conv" or "resnet", and the
            other entries are the arguments of `ConvStem` or `ResNetStem`. Defaults to None.
        dynamic_padding: bool. Whether images that the patch does not divide are padded. If False,
            they raise an error. Defaults to False.
        token_merging: int, sequence of ints or None. Number of patch tokens that each block merges
            (`keras_vit.merge_tokens`). In a sequence, entry i is for block i, and blocks without an
            entry merge none. Defaults to None, no merging.
        naflex: bool. Whether the model takes patches of images in their own aspect ratios instead
            of images: a dict of "patches" `(batch, patches, patch rows * patch columns * channels)`,
            "grid" `(batch, 2)`, the rows and columns of each image, and "mask" `(batch, patches)`,
            False for padding. `keras_vit.data.naflex` makes such batches. Positions are resampled
            for each image. `input_shape` only gives the channels and, without `position_grid`, the
            grid of the learned positions. Defaults to False.
        remat: bool. Whether the backward pass recomputes the blocks' activations, to save memory.
            Defaults to False.
        include_preprocessing: bool. Whether the model takes pixels from 0 to 255 and normalizes
            them itself. Defaults to True.
        preprocessing: dict or None. Preprocessing of images in the training of the weights: "mean"
            and "std" (a float or one per channel, for pixels between 0 and 1), and the entries that
            `keras_vit.data.evaluation_transform` reads: "size" (int, pixels, if `input_shape` is
            open), "interpolation", "crop_fraction" and "crop_mode". Missing entries are those of
            Google's models. Defaults to None.
        class_names: sequence of `num_classes` strings, or None. Names of the classes in the order
            of the outputs. They are saved with the model. Defaults to None.
        data_format: "channels_last", "channels_first" or None. Order of the images' axes. Defaults
            to None, Keras's setting.
        dtype: str or policy. Policy of all layers, such as "mixed_bfloat16". The outputs of a head
            are always float32. Defaults to None, Keras's setting.
        name: str or None. Name of the model.

    Attributes:
        config: `keras_vit.ViTConfig`. All arguments, and the values that follow from them.
        grid_size: pair of ints, (rows, columns) of patches; None where `input_shape` is open.
        num_prefix_tokens: int. Number of class, distillation and register tokens.
        preprocessing: dict with all entries.
        class_names: tuple of `num_classes` strings, or None.

    A call returns `(batch, num_classes)`; without head, `(batch, hidden_dim)` or
    `(batch, representation_size)`; without pooling, `(batch, tokens, hidden_dim)`.

    Raises:
        ValueError: if an argument is unknown or out of range, or if two contradict each other.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale", 2020.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> model(keras.ops.ones((2, 32, 32, 3))).shape
    (2, 10)
    """

    def __init__(self, *args, **kwargs):
        config = ViTConfig.from_arguments(*args, **kwargs)
        given = keras.dtype_policies.get(config.dtype) if config.dtype is not None else keras.config.dtype_policy()
        config = config.replace(dtype=keras.dtype_policies.serialize(given))
        policy = precision.policy(given)
        inputs = model_inputs(config)
        images, grid, mask = (inputs["patches"], inputs["grid"], inputs["mask"]) if config.naflex else (inputs, None, None)
        patches = patches_of(config, policy, images)
        tokens, rotations = _add_prefix_and_positions(config, policy, patches, grid)
        tokens = _encode(config, policy, tokens, rotations, mask)
        feature = pool(config, policy, tokens, mask)
        outputs = classify(config, policy, feature)
        super().__init__(inputs=inputs, outputs=outputs, name=config.name)
        if config.channels != 1 and not config.naflex:
            # Keras's input spec would accept images with one channel for three.
            self.input_spec = [keras.layers.InputSpec(shape=images.shape, name="images")]
        self.config = config
        self.grid_size = config.grid_size
        self.num_prefix_tokens = config.num_prefix_tokens
        self.preprocessing = config.preprocessing
        self.class_names = config.class_names
        self.sublayers_built()
        fast = keras.Model(inputs, outputs_of_class_tokens(self)["outputs"]) if config.pooling == "token" else None
        self._forward = None if fast is None else lambda *args, **kwargs: fast.call(*args, **kwargs)  # hidden from Keras's tracking

    # For `help` and editors.
    __init__.__signature__ = inspect.Signature(
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
        + [inspect.Parameter(field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default) for field in FIELDS]
    )

    def call(self, inputs, training=None, mask=None):
        """Computes the outputs. With class-token pooling the last block computes only these tokens: the result is the same, and B/16 does
        8 % less work."""
        return (self._forward or super().call)(inputs, training=training, mask=mask)

    def adapt(self, **changes):
        """Returns a new model with this model's weights and some arguments changed.

        If the grid changes, positions are resampled, and if the patch size changes, so is the patch
        kernel. A head for another number of classes is newly initialized, and so are layers that
        this model lacks. Layers that are frozen, quantized or have their own precision keep this.
        Low-rank updates (`keras_vit.training.add_lora`) are merged into their kernels.

        Args:
            **changes: arguments of `VisionTransformer`, such as `num_classes`, `input_shape`,
                `patch_size` or `drop_path_rate`. `num_classes` also adds a head to a model without
                one.

        Returns:
            A `VisionTransformer`, or for a subclass, a model of that subclass. It is not compiled.

        Raises:
            ValueError: if an argument is wrong or the weights do not fit, or if a subclass cannot
                be built from its `get_config`.

        Example:
        >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128)
        >>> model.adapt(num_classes=10, input_shape=(48, 64, 3)).grid_size
        (6, 8)
        """
        config = {key: value for key, value in self.get_config().items() if key not in ("trainable", "sublayers")}
        own = {key: value for key, value in changes.items() if key in config and key not in NAMES}  # of a subclass
        wanted = self.config.override(**{key: value for key, value in changes.items() if key not in own})
        if None in wanted.grid_size and wanted.position_embedding == self.config.position_embedding == "learned":
            wanted = wanted.replace(position_grid=wanted.position_grid or self.config.table_grid)  # at this size nothing changes
        now = self.config.to_dict()
        changes = own | {key: value for key, value in wanted.to_dict().items() if key in changes or value != now[key]}
        try:
            model = type(self).from_config({**config, "name": None, **changes})
        except TypeError as error:
            cls = type(self).__name__
            raise ValueError(
                f"`adapt` builds the new model by `{cls}.from_config`, which failed: {error}. Give {cls} a `get_config` with all arguments "
                "of its constructor."
            ) from error
        heads = ("head", "distillation_head") if model.config.num_classes != self.config.num_classes else ()
        mine, changed = {layer.name: layer for layer in self.layers}, self._changed_sublayers()
        carried = [layer for layer in model.layers if layer.name in mine and layer.name not in heads]
        model.trainable = self.trainable or any(layer.weights for layer in model.layers if layer not in carried)
        for layer in carried:
            source = mine[layer.name]
            layer.trainable = source.trainable
            built, now = self._as_built[layer.name], unshared(layer.get_config())
            wanted = {key: value for key, value in changed.get(layer.name, {}).items() if built.get(key) == now.get(key)}
            model.restore_sublayers({layer.name: kept_changes(wanted, layer)})
            carry_over(source, layer)
        return model

    def quantize(self, *args, **kwargs):
        """Quantizes the dense layers in place: `keras.Model.quantize`. `keras_vit.quantize` makes a new model."""
        with quick_deletion():
            super().quantize(*args, **kwargs)

    def get_config(self):
        """Returns the arguments of the constructor and, if layers were changed, "trainable" and "sublayers" (see `KeepsSublayers`)."""
        changed = self._changed_sublayers()
        return {**self.config.to_dict(), **({} if self.trainable else {"trainable": False}), **({"sublayers": changed} if changed else {})}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        trainable, sublayers = config.pop("trainable", True), config.pop("sublayers", {})
        model = cls(**config)
        if not trainable:
            model.trainable = False
        model.restore_sublayers(sublayers)
        return model


def _add_prefix_and_positions(c, policy, patches, grid):
    """Returns the tokens of the first block, prefix tokens and patches with positions, and a list of the blocks' rotations."""

    def with_positions(tokens, num_prefix_tokens):
        if c.position_embedding == "none":
            return tokens
        layer = PositionEmbedding(
            c.position_embedding, num_prefix_tokens, c.table_grid, c.position_resample, name="position_embedding", dtype=policy
        )
        return layer(tokens, grid=grid) if c.naflex else layer(tokens, patches)

    def normalized(tokens):
        return NORMS[c.norm](epsilon=c.norm_epsilon, name="embedding_norm", dtype=policy)(tokens)

    tokens = patches if c.naflex else keras.layers.Reshape((-1, c.hidden_dim), name="tokens", dtype=policy)(patches)
    if c.norm_embeddings == "patches":
        tokens = normalized(tokens)
    if not c.prefix_positions:
        tokens = with_positions(tokens, 0)
    if c.num_class_tokens:
        tokens = ClassToken(c.num_class_tokens, name="class_token", dtype=policy)(tokens)
    if c.prefix_positions:
        tokens = with_positions(tokens, c.num_class_tokens)
    if c.num_register_tokens:
        tokens = RegisterTokens(c.num_register_tokens, c.num_class_tokens, name="register_tokens", dtype=policy)(tokens)
    if c.dropout_rate:
        tokens = Dropout(c.dropout_rate, name="embedding_dropout", dtype=policy)(tokens)
    rotations = rotations_of(c, policy, patches)
    if c.patch_dropout_rate:
        dropout = PatchDropout(c.patch_dropout_rate, c.num_prefix_tokens, name="patch_dropout", dtype=policy)
        tokens, rotations = dropout(tokens, rotations=rotations) if rotations else (dropout(tokens), [])
    if c.norm_embeddings is True:
        tokens = normalized(tokens)
    return tokens, rotations


def _encode(c, policy, tokens, rotations, mask):
    """Returns the tokens after the last block."""
    beside = {}  # what a block reads besides the tokens: a mask, rotations, the places of merged tokens
    if mask is not None:
        beside["mask"] = TokenMask(c.num_prefix_tokens, name="token_mask")(mask, tokens)
    for i in range(c.num_layers):
        if rotations:
            beside["rotation"] = rotations[i % len(rotations)]
        block = _block(c, policy, i)
        if isinstance(block, TokenMergingBlock):
            tokens, beside["places"] = block(tokens, **beside)
        else:
            tokens = block(tokens, **beside)
    if "places" in beside:
        tokens = UnmergeTokens(name="unmerge_tokens", dtype=policy)(tokens, places=beside["places"])
    return tokens


def _block(c, policy, i):
    """Returns encoder block `i`. From the first block that merges tokens on, all are `TokenMergingBlock`s."""
    arguments = dict(
        num_heads=c.num_heads,
        mlp_dim=c.mlp_dim,
        mlp=c.mlp,
        activation=c.activation,
        dropout_rate=c.dropout_rate,
        attention_dropout_rate=c.attention_dropout_rate,
        drop_path_rate=c.drop_path_rates[i],
        layer_scale_init=c.layer_scale_init,
        use_qkv_bias=c.qkv_bias,
        qk_norm=c.qk_norm,
        norm_first=c.norm_first,
        norm_epsilon=c.norm_epsilon,
        remat=c.remat,
        mlp_norm=c.mlp_norm,
        attention_norm=c.attention_norm,
        norm_branches=c.norm_branches,
        norm=c.norm,
        use_projection_bias=c.projection_bias,
        name=f"block_{i}",
        dtype=policy,
    )
    if any(c.merged_tokens[: i + 1]):
        return TokenMergingBlock(r=c.merged_tokens[i], num_prefix_tokens=c.num_prefix_tokens, **arguments)
    return TransformerEncoderBlock(**arguments)


def outputs_of_class_tokens(model):
    """Returns the outputs of a model with class-token pooling, as symbolic tensors, where the last block computes only the class tokens.

    `model.output` has the same values but computes all tokens, so that the output of every layer lies on its path, as Grad-CAM needs it.

    Returns:
        Dict: "outputs", and with two heads their logits, "head" and "distillation_head".
    """
    c, layer = model.config, model.get_layer
    last = layer(f"block_{c.num_layers - 1}")
    tokens, *beside = keras.tree.flatten(last.input)  # at most one: these arguments exclude each other
    name = "places" if isinstance(last, TokenMergingBlock) else "mask" if c.naflex else "rotation"
    x = class_feature(c, layer("norm"), last(tokens, num_queries=c.num_class_tokens, **({name: beside[0]} if beside else {})))
    if c.representation_size:
        x = layer("pre_logits")(x)
    if not c.include_top:
        return {"outputs": x}
    if c.unit_feature:
        x = layer("unit_feature")(x)
    if not c.distillation_token:
        return {"outputs": layer("predictions")(layer("head")(x))}
    heads = {"head": layer("head")(x[:, 0]), "distillation_head": layer("distillation_head")(x[:, 1])}
    return {"outputs": layer("predictions")(layer("mean_logits")([*heads.values()])), **heads}
