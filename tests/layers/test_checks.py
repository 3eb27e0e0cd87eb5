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
