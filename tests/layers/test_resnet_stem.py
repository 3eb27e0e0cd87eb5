import keras
import numpy as np
import pytest
from helpers import all_or, assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import ResNetStem
from keras_vit.layers.resnet_stem import StandardizedConv2D


@pytest.mark.parametrize(
    "config, input_shape, output_shape",
    [
        ({"block_counts": (), "width": 8, "num_groups": 4}, (2, 16, 24, 3), (2, 4, 6, 8)),
        (
            {"block_counts": [2, 1], "width": 4, "num_groups": 2, "standardization": "variance", "standardization_epsilon": 1e-8},
            (2, 33, 18, 1),
            (2, 5, 3, 32),
        ),
    ],
)
def test_layer(config, input_shape, output_shape, other_process):
    layer = check_layer(ResNetStem, config, input_shape, output_shape=output_shape, other_process=other_process, half_tolerance=0.06)
    channels = output_shape[-1]
    assert layer.compute_output_shape((None, None, None, 3)) == (None, None, None, channels)


@pytest.mark.parametrize("block_counts, stride", [((), 4), ((1,), 4), ((1, 1), 8), ((3, 4, 9), 16), ((2, 2, 2, 2), 32)])
def test_stride(block_counts, stride):
    layer = ResNetStem(block_counts)
    assert layer.stride == stride
    assert layer.compute_output_shape((1, 224, 224, 3))[1:3] == (224 // stride, 224 // stride)


@pytest.mark.parametrize("side", all_or("29")(range(29, 37)))
def test_shapes_of_every_size(side):
    layer = ResNetStem((1, 1), width=2, num_groups=1)
    shape = (1, side, side + 1, 3)
    assert tuple(layer(np.zeros(shape, "float32")).shape) == layer.compute_output_shape(shape)


def same_padding(size, kernel, stride):
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def convolution(x, kernel, stride):
    size = kernel.shape[0]
    pads = [same_padding(side, size, stride) for side in x.shape[1:3]]
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bijkrc,rckd->bijd", windows, kernel)


@pytest.mark.parametrize("mode, epsilon", [("std", 0.1), ("variance", 0.1)])
@pytest.mark.parametrize("kernel, stride, side", [(7, 2, 8), (3, 2, 8), (3, 1, 5), (1, 2, 7)])
def test_standardized_convolution(mode, epsilon, kernel, stride, side):
    """Population statistics over all but the last axis; the padding of TensorFlow's "same", more at the bottom and right."""
    (x,) = random_inputs((1, side, side, 3))
    layer = StandardizedConv2D(4, kernel, stride, mode, epsilon)
    layer.build(x.shape)
    randomize(layer)
    w = to_numpy(layer.kernel).astype("float64")
    variance = w.var(axis=(0, 1, 2))
    w = (w - w.mean(axis=(0, 1, 2))) / (np.sqrt(variance) + epsilon if mode == "std" else np.sqrt(variance + epsilon))
    assert_close(layer(x), convolution(x.astype("float64"), w, stride))


def test_a_kernel_is_standardized_in_full_precision():
    """A large mean over a small spread is lost in half precision."""
    (x,) = random_inputs((1, 4, 4, 3))
    full = StandardizedConv2D(4, 3, 1, "std", 1e-5)
    half = StandardizedConv2D(4, 3, 1, "std", 1e-5, dtype="mixed_bfloat16")
    for layer in (full, half):
        layer.build(x.shape)
        layer.kernel.assign(100.0 + random_inputs((3, 3, 3, 4))[0])
    assert_close(half(x), full(x), 0.02)


def test_a_new_unit_passes_its_input_on():
    """The last gamma starts at zero: the second unit of a stage adds nothing to what is positive already."""
    (x,) = random_inputs((1, 16, 16, 3))
    outputs = []
    for block_counts in ((1,), (2,)):
        keras.utils.set_random_seed(1)
        outputs.append(ResNetStem(block_counts, width=4, num_groups=2)(x))
    assert_close(outputs[1], outputs[0], 1e-6)


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"block_counts": 3}, "block_counts"),
        ({"block_counts": (3, 0)}, "block_counts"),
        ({"block_counts": (3, 1.5)}, "block_counts"),
        ({"block_counts": (), "width": 0}, "width"),
        ({"block_counts": (), "num_groups": 0}, "num_groups"),
        ({"block_counts": (), "num_groups": 7}, "num_groups"),
        ({"block_counts": (), "standardization": "batch"}, "standardization"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        ResNetStem(**config)
