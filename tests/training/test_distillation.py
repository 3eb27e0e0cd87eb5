import keras
import numpy as np
import pytest
from helpers import outputs_of, to_numpy

import keras_vit
from keras_vit.training import RECIPES, Distillation

SMALL = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)


def student(**overrides):
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(**SMALL | dict(distillation_token=True) | overrides)
    rng = np.random.default_rng(0)
    for name in ("head", "distillation_head"):
        model.get_layer(name).kernel.assign(rng.normal(size=(8, 3)))
    return model


def teacher(**overrides):
    keras.utils.set_random_seed(1)
    model = keras_vit.VisionTransformer(**SMALL | overrides)
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    return model


def data(count=4):
    rng = np.random.default_rng(2)
    return rng.uniform(0, 255, (count, 8, 8, 3)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, count)]


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def logits(model, images):
    heads = keras.Model(model.input, [model.get_layer(name).output for name in ("head", "distillation_head")])
    return [to_numpy(each) for each in outputs_of(heads, images)]


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_deits(kind):
    """`DistillationLoss` of facebookresearch/deit (losses.py)."""
    model, guide, (images, labels) = student(), teacher(), data()
    class_logits, distillation_logits = logits(model, images)
    said = to_numpy(outputs_of(guide, images))
    by_labels = -(labels * np.log(softmax(class_logits))).sum(axis=-1).mean()
    if kind == "hard":
        by_teacher = -np.log(softmax(distillation_logits))[np.arange(4), said.argmax(axis=-1)].mean()
    else:
        soft = softmax(np.log(said) / 2.0)
        by_teacher = 4.0 * (soft * np.log(soft / softmax(distillation_logits / 2.0))).sum(axis=-1).mean()
    trainer = Distillation(model, guide, kind, alpha=0.3, temperature=2.0)
    trainer.compile(keras.optimizers.SGD(1e-6), "categorical_crossentropy")
    loss = trainer.fit(images, labels, verbose=0, shuffle=False).history["loss"][0]
    assert loss == pytest.approx(0.7 * by_labels + 0.3 * by_teacher, rel=1e-4)


def test_only_the_student_learns_and_predicts():
    model, guide, (images, labels) = student(), teacher(), data()
    before, taught = to_numpy(outputs_of(guide, images)), to_numpy(outputs_of(model, images))
    trainer = Distillation(model, guide)
    assert len(trainer.trainable_variables) == len(model.trainable_variables)
    trainer.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    trainer.fit(images, labels, epochs=2, verbose=0)
    np.testing.assert_array_equal(to_numpy(outputs_of(guide, images)), before)
    assert not np.allclose(to_numpy(outputs_of(model, images)), taught)
    np.testing.assert_allclose(trainer.predict(images, verbose=0), to_numpy(outputs_of(model, images)), atol=1e-6)


def test_evaluation_is_the_students():
    model, (images, labels) = student(), data()
    trainer = Distillation(model, teacher())
    losses = []
    for each in (trainer, model):
        each.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        losses.append(each.evaluate(images, labels, verbose=0, return_dict=True))
    assert losses[0] == pytest.approx(losses[1])


def test_the_distillation_head_learns_the_teachers_classes():
    model, guide, (images, labels) = student(), teacher(), data(16)
    said = to_numpy(outputs_of(guide, images)).argmax(axis=-1)
    trainer = Distillation(model, guide)
    trainer.compile(keras.optimizers.Adam(0.02), "categorical_crossentropy")
    trainer.fit(images, labels, epochs=60, verbose=0)
    class_logits, distillation_logits = logits(model, images)
    assert (distillation_logits.argmax(axis=-1) == said).mean() > 0.9
    assert (class_logits.argmax(axis=-1) == labels.argmax(axis=-1)).mean() > 0.9
    assert (said != labels.argmax(axis=-1)).any()  # or the heads had nothing to tell apart


def test_a_teacher_of_another_size_any_keras_model():
    inputs = keras.Input((16, 16, 3))
    guide = keras.Model(inputs, keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(inputs)))
    recipe = RECIPES["small_data"]
    trainer = Distillation(recipe.build(student()), guide)
    recipe.compile(trainer, 1)
    assert np.isfinite(trainer.fit(*data(), verbose=0).history["loss"][0])


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(ValueError, match="must have a distillation head"):
        Distillation(teacher(), teacher())
    with pytest.raises(ValueError, match="Received: a student of 3 classes, a teacher of 4"):
        Distillation(student(), keras_vit.VisionTransformer(**SMALL | dict(num_classes=4)))
    with pytest.raises(ValueError, match="`kind` must be one of"):
        Distillation(student(), teacher(), kind="firm")
    with pytest.raises(ValueError, match="Received: alpha=1.5"):
        Distillation(student(), teacher(), alpha=1.5)
