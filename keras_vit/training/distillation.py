"""Distillation through DeiT's distillation token: the student's second head learns a teacher's predictions."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.runtime.trainer import Trainer
from keras_vit.vision_transformer import outputs_of_class_tokens


@keras.saving.register_keras_serializable(package="keras_vit")
class Distillation(Trainer, keras.Model):
    """Trains a student with a distillation token. Call `fit` of this model, then use the student, which holds the weights.

    The class head learns the labels. The distillation head learns the teacher's class (`kind="hard"`, which DeiT found better) or the
    teacher's probabilities at a temperature ("soft").

    The loss is `(1 - alpha) * loss(class head, labels) + alpha * loss(distillation head, teacher)` with the loss of `compile`. For "soft",
    the second term is the Kullback-Leibler divergence times `temperature ** 2`. Predictions, metrics and the loss of `evaluate` compare
    the mean of both heads with the labels.

    Args:
        student: VisionTransformer. A model with `distillation_token=True`.
        teacher: keras.Model or None. Maps images (raw pixels in 0..255) to the probabilities of the same classes. Images are resized to
            its input size. It is neither trained nor saved. With None, as in a loaded model, call `model.set_teacher(teacher)` before
            `fit`. Defaults to None.
        kind: str. What the distillation head learns: "hard", the teacher's class, or "soft", its probabilities. Defaults to "hard".
        alpha: float in [0, 1]. Weight of the distillation loss. Defaults to 0.5.
        temperature: float above 0. Temperature of both softmaxes with "soft". Defaults to 3.0.

    Raises:
        ValueError: if the student has no distillation head, the classes differ, or an argument is out of range.

    Reference:
        Touvron et al., "Training data-efficient image transformers & distillation through attention", 2021, section 4.

    Example:
    >>> student = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10, distillation_token=True)
    >>> teacher = keras_vit.VisionTransformer((48, 48, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> trainer = keras_vit.training.Distillation(student, teacher)
    >>> trainer.compile("adamw", "categorical_crossentropy", metrics=["accuracy"])
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | None = None,
        kind: str = "hard",
        alpha: float = 0.5,
        temperature: float = 3.0,
        **kwargs: Any,
    ):
        if not any(layer.name == "distillation_head" for layer in student.layers):
            raise ValueError(f"The student must have a distillation head: `distillation_token=True`. Received: {student.name}")
        checks.one_of("kind", kind, ("hard", "soft"))
        if not 0.0 <= alpha <= 1.0 or not temperature > 0.0:
            raise ValueError(f"`alpha` must lie in [0, 1] and `temperature` above 0. Received: alpha={alpha}, temperature={temperature}")
        super().__init__(**kwargs)
        self.student, self.kind, self.alpha, self.temperature = student, kind, alpha, temperature
        outputs = outputs_of_class_tokens(student)
        self._heads = keras.Model(student.input, [outputs[name] for name in ("head", "distillation_head", "outputs")])
        self._teach: Any = None
        if teacher is not None:
            self.set_teacher(teacher)
        self.built = True

    def set_teacher(self, teacher: keras.Model):
        """Sets the model that the distillation head learns from.

        Args:
            teacher: as in the constructor.

        Raises:
            ValueError: if teacher and student have different numbers of classes.
        """
        if self.student.output_shape != teacher.output_shape:
            raise ValueError(
                "Teacher and student must have the same number of classes. "
                f"Received: a student of {self.student.output_shape[-1]} classes, a teacher of {teacher.output_shape[-1]}"
            )
        size = teacher.input_shape[1:3]

        def teach(images):
            if None not in size and tuple(images.shape[1:3]) != tuple(size):
                images = ops.image.resize(images, size, interpolation="bicubic", antialias=True)
            return ops.stop_gradient(teacher(images, training=False))

        self._teach = teach  # a function, because Keras would add the weights of a model attribute to this model's weights

    def _check_teacher(self):
        if self._teach is None:
            raise ValueError("A loaded Distillation has no teacher: call `model.set_teacher(teacher)` before `fit`")

    def make_train_function(self, force: bool = False):
        # Checked before `fit` begins: on JAX, an error within `fit` leaves the model's variables without values.
        self._check_teacher()
        return super().make_train_function(force)

    def call(self, images: Any, training: bool = False) -> Any:
        return self._heads(images, training=True) if training else self.student(images, training=False)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        self._check_teacher()
        class_logits, distillation_logits = y_pred[:2]
        activate, taught = self.student.get_layer("predictions"), self._teach(x)
        label_loss = super().compute_loss(x, y, activate(class_logits), sample_weight, training)
        if self.kind == "hard":
            classes = ops.argmax(taught, axis=-1)
            labels_are_numbers = len(y.shape) == 1 or y.shape[-1] == 1
            targets = classes if labels_are_numbers else ops.one_hot(classes, taught.shape[-1])
            teacher_loss = super().compute_loss(x, targets, activate(distillation_logits), sample_weight, training)
        else:
            logits = ops.log(taught + 1e-7), ops.cast(distillation_logits, taught.dtype)
            softened = [ops.softmax(x / self.temperature) for x in logits]
            teacher_loss = self.temperature**2 * keras.losses.KLDivergence()(*softened, sample_weight)
        return (1.0 - self.alpha) * label_loss + self.alpha * teacher_loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return super().compute_metrics(x, y, y_pred[-1] if isinstance(y_pred, (list, tuple)) else y_pred, sample_weight)

    def get_config(self):
        student = keras.saving.serialize_keras_object(self.student)
        more = {"kind": self.kind, "alpha": self.alpha, "temperature": self.temperature}
        return {"name": self.name, "student": student, **more}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**{**config, "student": keras.saving.deserialize_keras_object(config["student"])})
