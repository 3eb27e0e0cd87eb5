import pathlib

import keras
import numpy as np
import pytest
from helpers import all_or, assert_close, outputs_of, random_images, tiny, to_numpy
from keras import ops

import keras_vit
from keras_vit.layers.token_merging import new_places

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TOME = np.load(GOLDEN / "tome.npz")


@pytest.mark.parametrize("name", all_or("deit_distilled")(["plain", "deit_distilled", "no_class_token", "gap"]))
def test_it_is_the_authors(name):
    model = keras_vit.merge_tokens(keras_vit.from_pretrained(GOLDEN / "timm" / name, classifier_activation=None), TOME["r"].tolist())
    images = np.load(GOLDEN / "timm" / name / "expected.npz")["images"]
    if f"{name}/logits" in TOME:
        assert_close(outputs_of(model, images), TOME[f"{name}/logits"])
    if f"{name}/tokens" in TOME:
        tokens = model.get_layer("block_1").output[0]
        tokens = tokens if model.config.norm_after_pooling else model.get_layer("norm")(tokens)
        assert_close(outputs_of(keras.Model(model.input, tokens), images), TOME[f"{name}/tokens"])


def test_places_of_tokens_with_registers():
    """One class and two register tokens; patches 0 and 5, and 2 and 3, are alike."""
    patches = np.eye(6, 8, dtype="float32")
    patches[5], patches[3] = patches[0] + 0.01, patches[2] + 0.1
    keys = np.concatenate([np.ones((3, 8), "float32"), patches])[None, None]
    # Patches 1, 3 and 5 lie at even places of all tokens: they are merged into 0, 2 and 4.
    assert to_numpy(new_places(ops.convert_to_tensor(keys), 2, 3)).tolist() == [[0, 1, 2, 4, 3, 5, 5, 6, 4]]
    assert to_numpy(new_places(ops.convert_to_tensor(keys), 1, 3)).tolist() == [[0, 1, 2, 5, 3, 6, 4, 7, 5]]


ARCHITECTURES = {
    "registers": {"num_register_tokens": 3, "layer_scale_init": 0.1},
    "distilled": {"distillation_token": True},
    "map": {"pooling": "map", "num_register_tokens": 1},
    "token_gap": {"pooling": "token_gap", "norm_first": False},
    "sequence": {"include_top": False, "pooling": None},
    "open": {"input_shape": (None, None, 3), "class_token": False, "pooling": "gap"},
}


def test_any_pooling_saved_and_adapted(other_process):
    for name in all_or("registers", "open")(ARCHITECTURES):
        more = ARCHITECTURES[name]
        model = tiny(**{"input_shape": (32, 32, 3), **more})
        images = random_images(model, sides=(32, 32))
        expected, faster = to_numpy(outputs_of(model, images)), keras_vit.merge_tokens(model, (3, 2))
        assert faster.output_shape == model.output_shape
        found = to_numpy(outputs_of(faster, images))
        assert np.isfinite(found).all() and not np.array_equal(found, expected), name
        if name == "registers":
            for same in (keras_vit.merge_tokens(model, 0), faster.adapt(token_merging=None)):  # exact without merging
                np.testing.assert_array_equal(to_numpy(outputs_of(same, images)), expected)
        if name == "open":
            other_process.check(faster, images)
            assert_close(faster.predict(images, verbose=0), found)
            # Images of other sizes merge as many; never more than half of what is left.
            assert tuple(outputs_of(keras_vit.merge_tokens(model, 100), np.ones((1, 24, 40, 3), "float32")).shape) == (1, 5)
    # The class tokens that the last block computes alone are those of all tokens.
    merged = keras_vit.merge_tokens(tiny(), 1)
    images = random_images(merged)
    assert_close(outputs_of(merged, images), outputs_of(keras.Model(merged.input, merged.output), images))
    maps = outputs_of(keras_vit.feature_maps(merged, blocks=(0, 1)), images)
    assert [tuple(map.shape) for map in maps] == [(2, 2, 3, 16)] * 2
    sizes = [keras_vit.cost(merged.config, token_merging=r).macs for r in (0, 1, 2)]
    assert sizes[0] > sizes[1] > sizes[2] and sizes[0] == keras_vit.cost(merged.config, token_merging=None).macs


def test_what_is_refused(tmp_path):
    model = tiny()
    for r, words in (
        (-1, "number of tokens"),
        ((1, 1, 1), "at most one for each of the 2 blocks"),
        (1.5, "number of tokens"),
        ("a", "number"),
    ):
        with pytest.raises(ValueError, match=words):
            keras_vit.merge_tokens(model, r)
    with pytest.raises(ValueError, match="Received: a Sequential"):
        keras_vit.merge_tokens(keras.Sequential([model]), 1)
    merged = keras_vit.merge_tokens(model, 1)
    with pytest.raises(ValueError, match=r"adapt\(token_merging=None\)"):
        keras_vit.visualize.attention_rollout(merged, random_images(merged))
    with pytest.raises(ValueError, match="token_merging=1"):
        keras_vit.checkpoints.save(merged, tmp_path / "timm", format="timm")
    with pytest.raises(ValueError, match="does not support `rotary`"):
        keras_vit.merge_tokens(tiny(rotary={"base": 100.0}), 1)
    with pytest.raises(ValueError, match="remat"):
        merged.adapt(remat=True)
    assert keras_vit.merge_tokens(tiny(remat=True), 1).config.remat is False
