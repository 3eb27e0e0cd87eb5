import json

import numpy as np
import pytest

from keras_vit.layers import checks


@pytest.mark.parametrize(
    "value, expected",
    [
        (checks.integer("n", np.int64(3)), 3),
        (checks.integers("n", [np.int32(3), 4]), (3, 4)),
        (checks.positive_pair("n", np.int8(3)), (3, 3)),
        (checks.positive_pair("n", [3, np.uint8(4)]), (3, 4)),
        (checks.rate("n", np.float32(0.5)), 0.5),
        (checks.rate("n", 0), 0.0),
    ],
)
def test_numbers_of_numpy_become_those_of_python(value, expected):
    assert value == expected and json.loads(json.dumps(value)) is not None


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, [1]])
def test_no_positive_ints(value):
    with pytest.raises(ValueError, match="`n` must be an int of at least 1. Received: n="):
        checks.integer("n", value)
    with pytest.raises(ValueError, match="`n` must be a positive int or a pair of them"):
        checks.positive_pair("n", value)


@pytest.mark.parametrize(
    "images, words",
    [
        (np.array([0.0, 0.5, 1.0], "float32"), "float32 values from 0 to 1, not to 255: multiply them by 255"),
        (np.array([False, True]), "multiply them by 255"),
        (np.array([-1.0, 1.0]), "as if normalized already"),
        (np.array([-2.1, 2.6]), "as if normalized already"),
        (np.array([0, 65535], "uint16"), "16-bit images by 257"),
        (np.array([3.0, np.nan]), "not finite"),
        (np.array([0, 1], "uint8"), None),  # a picture that is almost black
        (np.array([0.0, 0.0]), None),
        (np.array([-3.0, 258.0]), None),  # after bicubic interpolation
        (np.zeros((0, 4)), None),
    ],
)
def test_pixels_that_are_not_from_0_to_255_are_seen(images, words):
    found = checks.odd_pixels(images)
    assert found is None if words is None else words in found


def test_layouts_that_are_not_channels_last_are_seen():
    assert "np.moveaxis" in checks.odd_layout((3, 32, 48)) and "np.moveaxis" in checks.odd_layout((8, 1, 28, 28))
    assert "RGBA" in checks.odd_layout((8, 8, 4)) and "gray" in checks.odd_layout((5, 8, 8, 2))
    assert not any(map(checks.odd_layout, [(8, 8), (8, 8, 3), (2, 8, 8, 1), (2, 8, 3, 3), (8, 8, 5)]))
