import pytest
from helpers import TINY, random_images, tiny, to_numpy

from keras_vit.runtime.intermediates import observing


def test_values_come_in_the_order_of_the_layers_and_may_be_replaced():
    model = tiny(pooling="map")
    images, seen = random_images(model), []

    def observer(name, value, layer):
        seen.append((name, layer and layer.name, tuple(value.shape)))
        return value * 0.0 if name == "weights" else value

    expected = to_numpy(model(images))
    with observing(observer):
        without_attention = to_numpy(model(images))
    tokens, heads = TINY["hidden_dim"], TINY["num_heads"]
    assert seen == [
        ("patches", "patch_embedding", (2, 2, 3, tokens)),
        ("tokens", "block_0", (2, 7, tokens)),
        ("weights", None, (2, heads, 7, 7)),
        ("tokens", "block_1", (2, 7, tokens)),
        ("weights", None, (2, heads, 7, 7)),
        ("tokens", "attention_pooling", (2, 6, tokens)),
        ("weights", None, (2, heads, 1, 6)),
    ]
    assert abs(without_attention - expected).max() > 1e-3
    seen.clear()
    assert (to_numpy(model(images)) == expected).all() and not seen


def test_an_error_ends_the_observation():
    model = tiny()

    def refuse(name, value, layer):
        raise KeyError(name)

    with pytest.raises(KeyError, match="patches"), observing(refuse):
        model(random_images(model))
    model(random_images(model))
