import dataclasses

import pytest
from helpers import requires_tensorflow

from keras_vit.config import ViTConfig
from keras_vit.cost import cost
from keras_vit.tuning import SPACES, open_space
from keras_vit.tuning.spaces import PARAMETERS, STEMS, architectures, arguments_of

pytestmark = requires_tensorflow
BASE = {"base": ViTConfig.of("ViTNano4", num_classes=10).to_dict()}


@pytest.mark.parametrize("name", SPACES)
def test_published_spaces(name):
    rows = open_space(name)
    assert set(rows) <= set(PARAMETERS)
    choices = architectures(rows, BASE)
    for choice in choices[:: max(1, len(choices) // 40)]:
        assert cost(BASE["base"] | arguments_of(choice, BASE["base"])).macs > 0


def test_every_choice_is_valid_and_within_the_budget():
    rows = {"hidden_dim": (64, 96), "num_heads": (3, 4, 7), "num_layers": (1, 2), "patch_size": (3, 4, 7, 8), "stem": tuple(STEMS)}
    base = BASE["base"]
    every = architectures(rows, BASE)
    prices = [cost(base | arguments_of(choice, base)) for choice in every]
    assert [price.macs for price in prices] == sorted(price.macs for price in prices)
    # 64 has 4 heads, 96 has 3 or 4; 4 and 7 divide 28 pixels, and of these a stem of stride 4 goes with 4.
    assert len(every) == 3 * 2 * (2 + 1 + 1)
    middle = sorted(price.macs for price in prices)[len(prices) // 2]
    within = architectures(rows, BASE, max_macs=middle)
    assert within == [choice for choice, price in zip(every, prices) if price.macs <= middle]
    with pytest.raises(ValueError, match=f"the smallest have {min(p.parameters for p in prices):,} parameters.*max_parameters=10"):
        architectures(rows, BASE, max_parameters=10)


def test_a_patch_is_in_pixels_of_the_image_also_behind_a_stem():
    base = ViTConfig.of("ViTNanoC4", num_classes=10).to_dict()  # patches of 1 behind a stem of stride 4
    assert arguments_of({"patch_size": 4}, base) == {}
    assert arguments_of({"stem": "resnet"}, base) == {"stem": STEMS["resnet"]}
    assert arguments_of({"patch_size": 28}, base) == {"patch_size": 7}
    with pytest.raises(ValueError, match="A config cannot remove the stem of a model"):
        architectures({"stem": ("patch",)}, {"base": base})


def test_presets_frozen_blocks_and_pooling():
    bases = {name: ViTConfig.of(name, num_classes=10, input_shape=(28, 28, 3)).to_dict() for name in ("ViTMicro4", "ViTNano4")}
    rows = {"model": tuple(bases), "frozen_blocks": ("none", 5, "all"), "pooling": ("token",)}
    found = [(choice["model"], choice["frozen_blocks"]) for choice in architectures(rows, bases)]
    assert ("ViTMicro4", 5) in found and ("ViTNano4", 5) not in found and len(found) == 5  # ViTNano4 has four blocks
    assert arguments_of({"pooling": "token"}, bases["ViTNano4"]) == {"pooling": "token", "class_token": True}


@pytest.mark.parametrize(
    "rows, rule",
    [
        ({}, "must have parameters"),
        ({"depth": (1,)}, "Unknown parameter"),
        ({"hidden_dim": {"low": 8, "high": 16}}, "must have distinct values. Received: hidden_dim"),
        ({"mixup": (0.1, 0.1)}, "distinct values"),
        ({"mixup": (0.1, "much")}, "numbers, or strings"),
        ({"mixup": {"low": 0.0, "high": 1.0, "log": True}}, "with `log` both must be above 0"),
        ({"mixup": {"low": 0.0, "high": 1.0, "step": 1}}, "A range must have"),
    ],
)
def test_rows_of_another_form(rows, rule):
    with pytest.raises(ValueError, match=rule):
        open_space(rows)


def test_every_value_of_a_recipe_can_be_searched_but_its_length():
    from keras_vit.training import Recipe

    left = {field.name for field in dataclasses.fields(Recipe)} - set(PARAMETERS)
    assert left == {"source", "epochs", "steps", "head_epochs"}
