"""LayerScale: a learned factor per channel at the end of a residual branch."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a learned factor.

    Its weight is `gamma` (D).

    Args:
        init: float. Initial value of `gamma`: 1e-4 in DeiT-III's code, 1e-5 in DINOv2 and timm. Defaults to 1e-5.

    Input and output shape: `(..., D)`, unchanged.

    Reference:
        Touvron et al., "Going deeper with Image Transformers", 2021, section 2.

    Example:
    >>> float(keras_vit.layers.LayerScale(0.5)(keras.ops.ones((1, 1)))[0, 0])
    0.5
    """

    def __init__(self, init: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.init = init

    def build(self, input_shape: tuple) -> None:
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.init))

    def call(self, inputs: Any) -> Any:
        return inputs * self.gamma

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "init": self.init}
