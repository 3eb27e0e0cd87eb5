import json

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, TINY, VARIANTS, requires_tensorflow, tiny

import keras_vit
from keras_vit.cost import cost_by_part

ODD = [
    {"stem": CONV_STEM, "patch_size": 2, "input_shape": (24, 16, 1)},
    {"stem": {"kind": "conv", "filters": (3, 5, 7), "strides": (2, 1, 2)}, "patch_size": (1, 2), "include_top": False},
    {"stem": {**RESNET_STEM, "block_counts": ()}, "patch_size": 2},
    {"stem": {**RESNET_STEM, "block_counts": (2, 1, 1), "width": 2, "num_groups": 1}, "patch_size": 1, "input_shape": (48, 32, 3)},
    {"mlp": "swiglu", "mlp_dim": 9, "qk_norm": True, "qkv_bias": False, "layer_scale_init": 0.1},
    {"pooling": "map", "class_token": False, "prefix_positions": False, "include_top": False, "mlp_dim": 7},
    {"distillation_token": True, "representation_size": 6, "norm_embeddings": True, "num_register_tokens": 3},
    {"pooling": "token_gap", "num_register_tokens": 2, "num_classes": 1},
    {"position_embedding": "sincos2d_mae", "distillation_token": True, "include_top": False},
    {"position_embedding": "none", "patch_size": (16, 4), "patch_bias": False, "num_layers": 3},
    {"position_grid": (3, 5), "prefix_positions": False, "distillation_token": True},
    {"input_shape": (17, 23, 3), "dynamic_padding": True, "pooling": "gap", "norm_after_pooling": True},
]


@pytest.mark.parametrize("more", [*VARIANTS.values(), *ODD])
def test_parameters_are_those_of_the_model(more):
    model = tiny(**more)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert keras_vit.cost(model).parameters == keras_vit.cost({**TINY, **more}).parameters == parameters
    if "conv" not in str(more.get("stem")):  # whose moving statistics `count_params` counts too
        assert model.count_params() == parameters


def macs_of_the_graph(model):
    """Counts the multiply-adds of matrix products and convolutions in TensorFlow's graph by the shapes of its operations."""
    import tensorflow as tf

    total = 0
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]))).graph
    for op in graph.get_operations():
        if op.type == "Conv2D":
            rows, columns, channels, _ = op.inputs[1].shape
            total += op.outputs[0].shape.num_elements() * rows * columns * channels
        elif op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += op.outputs[0].shape.num_elements() * op.inputs[0].shape[-2 if transposed else -1]
        else:
            assert "MatMul" not in op.type and "Conv" not in op.type and "Einsum" not in op.type
    return total


@requires_tensorflow
@pytest.mark.parametrize(
    "more",
    [
        {"pooling": "gap"},
        {"pooling": "gap", "input_shape": (3, 32, 24), "data_format": "channels_first", "patch_size": (8, 4), "num_register_tokens": 2},
        {"pooling": "gap", "mlp": "swiglu", "mlp_dim": 9, "qk_norm": True, "representation_size": 6},
        {"pooling": "map", "num_register_tokens": 2},
        {"pooling": "map", "pooling_num_heads": 4, "pooling_mlp_dim": 12, "pooling_prefix_tokens": True, "mlp_norm": True},
        {"pooling": "token_gap", "num_register_tokens": 1},
        {"pooling": "gap", "stem": CONV_STEM, "patch_size": 1, "input_shape": (18, 22, 3)},
        {"pooling": "gap", "stem": RESNET_STEM, "patch_size": 1, "input_shape": (30, 45, 3)},
        {"pooling": "gap", "stem": {**RESNET_STEM, "block_counts": (2, 1, 1)}, "patch_size": 1, "input_shape": (32, 48, 3)},
    ],
)
def test_macs_are_those_of_the_graph(more):
    model = tiny(**more)
    assert macs_of_the_graph(model) == keras_vit.cost(model).macs


@requires_tensorflow
def test_a_model_that_reads_the_class_token_computes_less():
    """Of the last block everything but keys and values is computed for one token, not seven."""
    model = tiny()
    others = 6 * 16 * (16 + 16 + 2 * 32) + 6 * 2 * 7 * 16  # queries, projection, feed-forward network; attention
    assert macs_of_the_graph(model) == keras_vit.cost(model).macs - others


def test_batch_and_precision():
    one = keras_vit.cost(TINY)
    many = keras_vit.cost(TINY, batch_size=8, bytes_per_value=2)
    assert many == (one.parameters, 8 * one.macs, 4 * one.activation_bytes, 8 * one.outputs)


def test_activation_bytes():
    """Of one block, the tensors that its backward pass needs, counted by hand."""
    d, n, mlp_dim, heads = 16, 7, 32, 2
    block = {
        "inputs of norm1 and norm2": 2 * n * d,
        "inputs of qkv and projection": 2 * n * d,
        "query, key, value": 3 * n * d,
        "attention weights": heads * n * n,
        "input of fc1": n * d,
        "inputs of the activation and of fc2": 2 * n * mlp_dim,
    }
    assert cost_by_part(TINY)["blocks"].activation_bytes == 4 * 2 * sum(block.values())
    remat = cost_by_part(TINY, remat=True)["blocks"]
    assert remat.activation_bytes == 4 * 2 * n * d and remat.macs == cost_by_part(TINY)["blocks"].macs


def test_parts_make_the_whole():
    more = {"stem": CONV_STEM, "patch_size": 2, "representation_size": 6, "norm_embeddings": True, "pooling": "map"}
    parts = cost_by_part(TINY, **more)
    assert list(parts) == ["stem", "patch_embedding", "tokens", "blocks", "norm", "pooling", "representation", "head"]
    assert tuple(map(sum, zip(*parts.values()))) == keras_vit.cost(TINY, **more)


def test_a_name_a_model_and_a_configuration_cost_the_same():
    small = {"num_layers": 1, "input_shape": (32, 32, 3), "num_classes": 3}
    model = keras_vit.ViTTi16(**small)
    config = json.loads(json.dumps(model.get_config()))
    assert keras_vit.cost("ViTTi16", **small) == keras_vit.cost(model) == keras_vit.cost(config)


def test_image_order_set_in_keras():
    keras.config.set_image_data_format("channels_first")
    try:
        assert keras_vit.cost({**TINY, "input_shape": (3, 16, 24)}) == keras_vit.cost({**TINY, "data_format": "channels_last"})
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "model, overrides, message",
    [
        ("ViTB17", {}, "The nearest are .*Received: 'ViTB17'"),
        ("ViTB16", {"input_shape": (None, None, 3)}, "pass `input_shape`. Received: input_shape="),
        ("ViTB16", {"input_shape": (225, 224, 3)}, "must divide the image. Received: input_shape="),
        ("R26ViTS32", {"input_shape": (224, 224, 3), "patch_size": 2}, "must divide .* stride 32"),
        ("ViTB16", {"classes": 10}, "does not have these arguments. Received: classes"),
        ("ViTB16", {"patch_size": 16.0}, "`patch_size` must be"),
        ("ViTB16", {"stem": {"kind": "conv"}}, "requires filters, strides"),
    ],
)
def test_bad_input(model, overrides, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.cost(model, **overrides)
