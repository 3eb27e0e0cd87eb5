import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score

from keras_vit.training import evaluate_predictions


def predictions(count=200, classes=7):
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.full(classes, 0.3), count), rng.integers(0, classes, count)


def test_against_scikit_learn():
    probabilities, labels = predictions()
    result = json.loads(json.dumps(evaluate_predictions(probabilities, labels)))
    predicted = probabilities.argmax(axis=-1)
    assert result["images"] == 200 and result["accuracy"] == pytest.approx((predicted == labels).mean())
    assert result["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert result["log_loss"] == pytest.approx(log_loss(labels, probabilities))
    assert result["confusion_matrix"] == confusion_matrix(labels, predicted).tolist()
    theirs = precision_recall_fscore_support(labels, predicted)
    for key, values in zip(("precision", "recall", "f1", "images"), theirs):
        np.testing.assert_allclose([row[key] for row in result["classes"]], values)


def test_calibration_error_by_hand():
    confidence = np.array([0.55, 0.55, 0.95, 0.95, 1.0])
    probabilities, labels = np.stack([confidence, 1 - confidence], axis=-1), np.array([0, 1, 0, 0, 1])
    # Bins of a tenth: two at 0.55, half of them right; three at 0.97, two thirds of them right.
    expected = (2 * abs(0.5 - 0.55) + 3 * abs(2 / 3 - 2.9 / 3)) / 5
    assert evaluate_predictions(probabilities, labels, bins=10)["calibration_error"] == pytest.approx(expected)


def test_few_classes_and_a_class_without_images():
    result = evaluate_predictions(np.array([[0.8, 0.1, 0.1]]), np.array([0]), ["a", "b", "c"])
    assert result["top5_accuracy"] is None and result["classes"][0]["f1"] == 1.0
    assert result["classes"][1] == {"name": "b", "images": 0, "precision": None, "recall": None, "f1": None}


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3, 2), (4,)), ((0, 2), (0,))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"`probabilities` must be \(n, classes\)"):
        evaluate_predictions(np.zeros(shapes[0]), np.zeros(shapes[1], int))
