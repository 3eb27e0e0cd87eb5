import keras
import numpy as np
import pytest
from helpers import VARIANTS, assert_close, random_images, tiny, to_numpy
from visualize.cases import nested

from keras_vit.visualize import grad_cam


def by_definition(model, images, target, block):
    """Grad-CAM with gradients by finite differences: of the score with respect to each feature, added to all patches alike."""
    tokens = to_numpy(keras.Model(model.input, model.get_layer(f"block_{block}").input)(images))
    patches, width = np.prod(model.grid_size), tokens.shape[-1]
    steps = np.zeros((width, 1, *tokens.shape[1:]), "float32")
    steps[:, :, -patches:] = 1e-2 * np.eye(width)[:, None, None]

    def score(tokens):
        tokens = tokens.reshape(-1, *tokens.shape[2:])
        for i in range(block, 2):
            tokens = model.get_layer(f"block_{i}")(tokens)
        tokens = model.get_layer("norm")(tokens)
        pooled = tokens[:, 0] if model.get_config()["pooling"] == "token" else keras.ops.mean(tokens[:, 1:], axis=1)
        return to_numpy(model.get_layer("head")(pooled))[:, target].reshape(width, -1)

    mean_slopes = (score(tokens + steps) - score(tokens - steps)) / 2e-2 / patches
    found = np.einsum("bpk,kb->bp", tokens[:, -patches:], mean_slopes)
    return np.maximum(found, 0.0).reshape(len(images), *model.grid_size)


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_as_defined(pooling):
    model = tiny(pooling=pooling)
    images = random_images(model)
    for block in (0, 1):
        expected = by_definition(model, images, 2, block)
        assert expected.max() > 0
        assert_close(grad_cam(model, images, target=2, block=block - 2, batch_size=1), expected, 2e-3)
    np.testing.assert_allclose(grad_cam(model, images, target=2), grad_cam(model, images, target=2, block=1), rtol=1e-5)


def test_of_every_kind_of_model():
    for name in ("map", "token_gap", "distilled", "post_norm", "mae", "conv_stem"):
        model = tiny(**VARIANTS[name])
        found = grad_cam(model, random_images(model))
        assert found.shape == (2, *model.grid_size) and found.min() >= 0 and found.max() > 0, name
    vit = tiny(include_top=False)
    assert grad_cam(nested(vit), random_images(vit)).shape == (2, 2, 3)


def test_wrong_arguments():
    model = tiny()
    images = random_images(model)
    for arguments, message in (
        ((tiny(include_top=False), images), "needs a model with a head"),
        ((model, images, 9), "from 0 to 4"),
        ((model, images, 0, 2), "between -2 and 1. Received: 2"),
    ):
        with pytest.raises(ValueError, match=message):
            grad_cam(*arguments)
