import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.imagenet import imagenet_classes


def test_classes_are_in_the_order_of_ilsvrc():
    classes = imagenet_classes()
    ids = [wordnet_id for wordnet_id, _ in classes]
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    known = {
        0: ("n01440764", "tench"),
        207: ("n02099601", "golden retriever"),
        281: ("n02123045", "tabby"),
        285: ("n02124075", "Egyptian cat"),
        817: ("n04285008", "sports car"),
        999: ("n15075141", "toilet tissue"),
    }
    assert {index: classes[index] for index in known} == known


@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor])
def test_the_best_come_first(convert):
    scores = np.zeros((2, 1000), "float32")
    scores[0, [281, 285, 0]] = 0.5, 0.3, 0.2
    scores[1, 817] = 1.0
    first, second = keras_vit.decode_predictions(convert(scores), top=3)
    assert [label for _, label, _ in first] == ["tabby", "Egyptian cat", "tench"]
    assert [score for *_, score in first] == pytest.approx([0.5, 0.3, 0.2])
    assert second[0] == ("n04285008", "sports car", 1.0) and second[1][0] == "n01440764"  # of equal ones the first
    assert [len(row) for row in keras_vit.decode_predictions(scores)] == [5, 5]
    assert len(keras_vit.decode_predictions(scores, top=2000)[0]) == 1000


@pytest.mark.parametrize("shape", [(1000,), (2, 999), (2, 1000, 1), (2, 21843)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be of shape \(batch, 1000\). Received: shape"):
        keras_vit.decode_predictions(np.zeros(shape))


@pytest.mark.parametrize("top", [0, -1, 2.5, True])
def test_top_is_a_positive_int(top):
    with pytest.raises(ValueError, match="`top` must be an int of at least 1"):
        keras_vit.decode_predictions(np.zeros((1, 1000)), top=top)
