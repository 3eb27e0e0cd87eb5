import pytest

from keras_vit.visualize import cost_curves

pytest.importorskip("matplotlib")


def test_where_attention_overtakes_the_rest():
    """Of a block's multiply-adds 12 D^2 N are dense and 2 D N^2 are attention's: they are equal at 6 D tokens, the patches apart."""
    ax = cost_curves("ViTTi16", (160, 1280), (32, 8))
    lines = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == [f"patch {patch}: {kind}" for patch in (32, 8) for kind in ("everything else", "attention scores")]
    dots = [int(line.get_xdata()[0]) for line in ax.get_lines() if line.get_marker() == "o"]
    assert dots == [pytest.approx(patch * (6 * 192 + patch**2 / 8) ** 0.5, abs=patch) for patch in (32, 8)]
    assert [text.get_text() for text in ax.texts] == [f"{side} pixels" for side in dots]
    assert cost_curves("ViTTi16", quantity="memory", ax=ax) is ax and ax.get_ylabel().startswith("Peak memory")


@pytest.mark.parametrize(
    "more, message",
    [
        ({"quantity": "flops"}, "must be one of 'macs', 'memory', 'seconds'"),
        ({"quantity": "seconds"}, "calibrate"),
        ({"sizes": (97, 100)}, "The patch must divide a size in this range"),
    ],
)
def test_bad_input(more, message):
    with pytest.raises(ValueError, match=message):
        cost_curves("ViTTi16", **more)
