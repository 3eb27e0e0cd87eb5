"""The end of a model: pools the tokens after the last block, and computes the head."""

import keras
from keras import ops

from keras_vit.layers import AttentionPooling, activations, checks
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.masks import TokenMask, masked_mean
from keras_vit.runtime import precision


def check_tokens(c):
    """Raises a ValueError for arguments of tokens and pooling that contradict each other."""
    if c.pooling in ("token", "token_gap") and not c.class_token:
        raise ValueError(f"This pooling needs a class token. Received: pooling={c.pooling!r}, class_token=False")
    if c.pooling == "token_gap" and c.norm_after_pooling:
        raise ValueError('`pooling="token_gap"` reads normalized tokens. Received: pooling="token_gap", norm_after_pooling=True')
    if c.distillation_token and c.pooling != "token":
        raise ValueError(f'A distillation token needs `pooling="token"`. Received: distillation_token=True, pooling={c.pooling!r}')
    if c.include_top and c.pooling is None:
        raise ValueError(
            "A head needs a pooled feature: choose a `pooling`, or `include_top=False`. Received: include_top=True, pooling=None"
        )
    if c.position_grid is not None:
        checks.positive_pair("position_grid", c.position_grid)
        if c.position_embedding != "learned":
            raise ValueError(
                "`position_grid` is only for learned positions; others are computed for any grid. "
                f"Received: position_grid={c.position_grid}, position_embedding={c.position_embedding!r}"
            )


def pool(c, policy, tokens, mask=None):
    """Returns the feature that the head reads: a vector per image, two vectors for two heads, or all tokens without pooling."""
    if c.final_norm:
        norm = NORMS[c.norm](epsilon=c.norm_epsilon, name="norm", dtype=policy)
    else:
        norm = keras.layers.Activation("linear", name="norm", dtype=policy)
    if c.pooling is None:
        return norm(tokens)
    if c.pooling == "token":
        return class_feature(c, norm, tokens)
    read = tokens if c.norm_after_pooling else norm(tokens)
    patch_tokens = read[:, c.num_prefix_tokens :] if c.num_prefix_tokens else read
    pooled = read if c.pooling_prefix_tokens and c.pooling == "map" else patch_tokens
    if mask is not None:
        mask = TokenMask(c.num_prefix_tokens if pooled is read else 0, name="patch_mask")(mask, pooled)
    if c.pooling == "map":
        dims = c.pooling_num_heads or c.num_heads, c.pooling_mlp_dim or c.mlp_dim
        pooling = AttentionPooling(*dims, c.activation or "gelu", c.norm_epsilon, c.norm, name="attention_pooling", dtype=policy)
        feature = pooling(pooled, mask=mask)
    else:
        feature = ops.mean(patch_tokens, axis=1) if mask is None else masked_mean(patch_tokens, mask)
    if c.pooling == "token_gap":
        feature = ops.concatenate([read[:, 0], feature], axis=-1)
    return norm(feature) if c.norm_after_pooling else feature


def class_feature(c, norm, tokens):
    read = tokens if c.norm_after_pooling else norm(tokens)
    if not c.distillation_token:
        feature = read[:, 0]
    else:
        feature = read[:, :2] if c.include_top else ops.mean(read[:, :2], axis=1)
    return norm(feature) if c.norm_after_pooling else feature


def classify(c, policy, feature):
    """Returns the model's outputs: the predictions or, without a head, the feature."""

    def dense(units, name, **more):
        return keras.layers.Dense(units, name=name, dtype=policy, **more)

    if c.representation_size:
        activation, bias = activations.get(c.representation_activation), c.representation_bias
        representation = dense(c.representation_size, "pre_logits", activation=activation, use_bias=bias, kernel_initializer="lecun_normal")
        feature = representation(feature)
    if not c.include_top:
        return feature
    if c.unit_feature:
        feature = keras.layers.UnitNormalization(name="unit_feature", dtype=precision.full(policy))(feature)
    head = dense(c.num_classes, "head", kernel_initializer="zeros")
    if c.distillation_token:
        distillation_head = dense(c.num_classes, "distillation_head", kernel_initializer="zeros")
        logits = [head(feature[:, 0]), distillation_head(feature[:, 1])]
        logits = keras.layers.Average(name="mean_logits", dtype=policy)(logits)
    else:
        logits = head(feature)
    activation = activations.get(c.classifier_activation)
    return keras.layers.Activation(activation, dtype=precision.full(policy), name="predictions")(logits)
