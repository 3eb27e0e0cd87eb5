import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, requires_tensorflow, to_numpy, value_and_gradients
from keras import ops

from keras_vit.layers import PatchEmbedding
from keras_vit.layers.patch_embedding import fit_kernel
from keras_vit.layers.resampling import interpolation_matrix
from keras_vit.runtime import patches


@pytest.mark.parametrize(
    "config, input_shape, output_shape",
    [
        ({"hidden_dim": 8, "patch_size": 4}, (2, 8, 12, 3), (2, 2, 3, 8)),
        ({"hidden_dim": 5, "patch_size": (4, 2), "use_bias": False, "resample": "bicubic_antialias"}, (2, 8, 6, 1), (2, 2, 3, 5)),
        ({"hidden_dim": 8, "patch_size": 4, "dynamic_padding": True}, (2, 9, 12, 3), (2, 3, 3, 8)),
    ],
)
def test_layer(config, input_shape, output_shape, other_process):
    check_layer(PatchEmbedding, config, input_shape, output_shape=output_shape, other_process=other_process)


@pytest.mark.parametrize("patch", [(4, 4), (2, 4)])
def test_each_patch_is_projected(patch):
    (images,) = random_inputs((2, 8, 12, 3))
    layer = PatchEmbedding(5, patch)
    layer.build(images.shape)
    randomize(layer)
    kernel, bias = (to_numpy(weight).astype("float64") for weight in (layer.kernel, layer.bias))
    rows, columns = 8 // patch[0], 12 // patch[1]
    expected = np.zeros((2, rows, columns, 5))
    for i in range(rows):
        for j in range(columns):
            cut = images[:, i * patch[0] : (i + 1) * patch[0], j * patch[1] : (j + 1) * patch[1]]
            expected[:, i, j] = cut.reshape(2, -1) @ kernel.reshape(-1, 5) + bias
    assert_close(layer(images), expected)


@pytest.mark.parametrize("patch, padding", [((4, 4), False), ((2, 4), False), ((4, 4), True)])
def test_as_on_a_gpu_by_one_product(patch, padding, monkeypatch):
    (images,) = random_inputs((2, 6 if padding else 8, 12, 3))
    layer = PatchEmbedding(5, patch, dynamic_padding=padding)
    layer.build(images.shape)
    randomize(layer)
    expected, gradients = value_and_gradients(layer, ops.convert_to_tensor(images))
    monkeypatch.setattr(patches, "on_gpu", lambda images: True)
    outputs, found = value_and_gradients(layer, ops.convert_to_tensor(images))
    assert_close(outputs, expected)
    assert_close(found[0], gradients[0])


def test_dynamic_padding_pads_bottom_and_right():
    (images,) = random_inputs((2, 7, 9, 3))
    padding = PatchEmbedding(5, 4, dynamic_padding=True)
    plain = PatchEmbedding(5, 4)
    padding.build(images.shape)
    plain.build((2, 8, 12, 3))
    plain.set_weights(padding.get_weights())
    assert_close(padding(images), plain(np.pad(images, [(0, 0), (0, 1), (0, 3), (0, 0)])), 1e-6)


@requires_tensorflow
def test_dynamic_padding_of_an_open_size():
    import tensorflow as tf

    layer = PatchEmbedding(5, 4, dynamic_padding=True)
    layer.build((None, None, None, 3))
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for shape in ((1, 7, 9, 3), (2, 8, 4, 3), (1, 1, 1, 3)):
        (images,) = random_inputs(shape)
        assert_close(call(images), layer(images), 1e-6)


@pytest.mark.parametrize("shape", [(1, 9, 8, 3), (1, 8, 6, 3), (1, 2, 8, 3)])
def test_the_patch_must_divide_the_image(shape):
    with pytest.raises(ValueError, match=r"must divide .* Received: patch_size=\(4, 4\)"):
        PatchEmbedding(5, 4).build(shape)
    layer = PatchEmbedding(5, 4)
    layer.build((None, None, None, 3))
    with pytest.raises(ValueError, match=r"must divide .* Received: patch_size=\(4, 4\)"):
        layer(np.zeros(shape, "float32"))


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"hidden_dim": 8, "patch_size": 0}, "patch_size"),
        ({"hidden_dim": 8, "patch_size": 4.0}, "patch_size"),
        ({"hidden_dim": 8, "patch_size": (4, 4, 4)}, "patch_size"),
        ({"hidden_dim": 8, "patch_size": "4"}, "patch_size"),
        ({"hidden_dim": 8, "resample": "cubic"}, "resample"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        PatchEmbedding(**config)


def test_initial_weights_are_lecun_normal():
    layer = PatchEmbedding(64, 8)
    layer.build((None, 8, 8, 3))
    kernel = to_numpy(layer.kernel)
    scale = 1 / np.sqrt(8 * 8 * 3)
    assert abs(kernel.std() / scale - 1) < 0.05
    assert np.abs(kernel).max() < 2 * scale / 0.8796  # truncated at two standard deviations
    assert not to_numpy(layer.bias).any()


def test_a_resized_kernel_sees_a_resized_patch_alike():
    """What FlexiViT's resize is made for: the patch grows bilinearly, and its embedding stays."""
    (patch,) = random_inputs((4, 4, 3))
    (kernel,) = random_inputs((4, 4, 3, 5), seed=1)
    rows, columns = interpolation_matrix(4, 6, "bilinear"), interpolation_matrix(4, 8, "bilinear")
    larger = np.einsum("ri,cj,ijk->rck", rows, columns, patch)
    resized = fit_kernel(kernel, (6, 8, 3, 5), "bilinear")
    assert_close(np.einsum("rck,rckd->d", larger, resized), np.einsum("rck,rckd->d", patch, kernel))


@pytest.mark.parametrize("channels, weights", [(1, [3.0]), (4, [0.75, 0.75, 0.75, 0.75]), (6, [0.5] * 6)])
def test_other_numbers_of_channels(channels, weights):
    """A gray image has the response of its repetition; more channels take the colors in turn, scaled to the same size."""
    (kernel,) = random_inputs((2, 2, 3, 5))
    fitted = fit_kernel(kernel, (2, 2, channels, 5), "bilinear")
    assert fitted.shape == (2, 2, channels, 5)
    if channels == 1:
        assert_close(fitted[:, :, 0], kernel.sum(axis=2), 1e-6)
    else:
        assert_close(fitted, np.stack([weight * kernel[:, :, i % 3] for i, weight in enumerate(weights)], axis=2), 1e-6)
