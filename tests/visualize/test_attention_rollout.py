import numpy as np
import pytest
from helpers import VARIANTS, assert_close, random_images, tiny
from visualize.cases import FOUND, golden_model, nested

from keras_vit.visualize import attention_maps, attention_rollout, attention_weights


@pytest.mark.parametrize("name", ["plain", "non_square_image", "deit3", "qk_norm", "gap", "dinov2_registers"])
def test_as_the_reference(name):
    model, images = golden_model(name)
    joint, (rows, columns) = FOUND[f"{name}_rollout"], model.grid_size
    patches = rows * columns
    read = joint[:, -patches:].mean(axis=1) if name == "gap" else joint[:, 0]
    assert_close(attention_rollout(model, images, batch_size=1), read[:, -patches:].reshape(2, rows, columns), 1e-5)
    one = attention_rollout(model, images, query=(1, 2))
    assert_close(one, joint[:, -patches + columns + 2, -patches:].reshape(2, rows, columns), 1e-5)


def test_attention_pooling_reads_the_last_block():
    model = tiny(**VARIANTS["map"])
    images = random_images(model)
    weights, joint = attention_weights(model, images).mean(axis=2), np.eye(8)
    for i in range(2):
        joint = 0.5 * (weights[:, i] + np.eye(8)) @ joint
    pooling = attention_maps(model, images)[:, 0].mean(axis=1).reshape(2, 1, 6)
    assert_close(attention_rollout(model, images), (pooling @ joint[:, 2:, 2:]).reshape(2, 2, 3), 1e-5)


def test_of_every_kind_of_model():
    for name in ("distilled", "token_gap", "sequence", "padded", "channels_first"):
        model = tiny(**VARIANTS[name])
        found = attention_rollout(model, random_images(model))
        assert found.shape == (2, 2, 3) and found.min() > 0 and found.sum() < 2.001, name
    vit = tiny(include_top=False)
    images = random_images(vit)
    assert_close(attention_rollout(nested(vit), images), attention_rollout(vit, images * 0.5), 1e-5)
    with pytest.raises(ValueError, match="`query` must be one of"):
        attention_rollout(vit, images, query="head")
