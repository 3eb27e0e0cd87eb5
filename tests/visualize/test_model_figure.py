import re

import keras
import pytest
from helpers import VARIANTS, tiny
from visualize.cases import nested

from keras_vit.visualize import model_figure
from keras_vit.visualize.figures import axes_of
from keras_vit.visualize.model_figure import block_parts, stages


def test_the_way_of_an_image():
    names = lambda model: [stage.name for stage in stages(model)]  # noqa: E731
    shapes = lambda model: [stage.shape for stage in stages(model)]  # noqa: E731
    assert names(tiny()) == ["image", "patch embedding", "tokens", "encoder", "pooling", "head"]
    assert shapes(tiny()) == ["16 × 24 × 3", "2 × 3 × 16", "7 × 16", "7 × 16", "16", "5 classes"]
    hybrid = tiny(**VARIANTS["resnet_stem"])
    assert names(hybrid)[1] == "ResNet stem" and shapes(hybrid)[1] == " × ".join(map(str, hybrid.get_layer("stem").output.shape[1:]))
    assert [stage.shape for stage in stages(tiny(**VARIANTS["distilled"]))][-2:] == ["2 × 16", "5 classes"]
    assert names(tiny(**VARIANTS["pre_logits"]))[-2:] == ["pre-logits", "head"]
    assert shapes(tiny(**VARIANTS["token_gap"]))[-2] == "32"
    open_size = tiny(input_shape=(None, None, 3), include_top=False, pooling=None)
    assert shapes(open_size) == ["any × any × 3", "rows × cols × 16", "1 + patches × 16", "1 + patches × 16", "1 + patches × 16"]


def test_what_a_block_does():
    parts = [part.split("\n")[0] for part in block_parts(tiny().get_config())]
    assert parts == ["norm", "attention", "+", "norm", "MLP", "+"]
    parts = [part.split("\n")[0] for part in block_parts(tiny(norm_first=False, layer_scale_init=1.0, mlp="swiglu").get_config())]
    assert parts == ["attention", "layer", "+", "norm", "SwiGLU", "layer", "+", "norm"]


def test_rotary_positions_are_in_the_blocks():
    model = tiny(**VARIANTS["rotary"])
    assert block_parts(model.get_config())[1].split("\n")[-1] == "rotary positions"
    assert stages(model)[2].detail == "positions in each block"


def test_drawing(tmp_path):
    for name in ("plain", "distilled", "registers", "conv_stem", "post_norm", "deit3"):
        model = tiny(**VARIANTS[name])
        figure = model_figure(model).figure
        figure.savefig(tmp_path / "model.svg")
        words = " ".join(re.findall(r"<!-- (.*?) -->", (tmp_path / "model.svg").read_text()))
        assert f"{model.count_params():,} parameters" in words and "2 blocks" in words, name
    assert model_figure(nested(tiny(include_top=False))).texts
    small = axes_of(None, 4, 2)
    assert model_figure(tiny(), small) is small and max(text.get_fontsize() for text in small.texts) < 6
    with pytest.raises(ValueError, match="Received: a Sequential"):
        model_figure(keras.Sequential([keras.layers.Dense(2)]))
