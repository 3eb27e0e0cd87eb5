"""The two feed-forward networks of Vision Transformer blocks."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import activations, checks
from keras_vit.layers.dropout import Dropout
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.calls import bare


@keras.saving.register_keras_serializable(package="keras_vit")
class MLP(KeepsSublayers, keras.layers.Layer):
    """Applies the paper's feed-forward network: `fc2(activation(fc1(x)))`.

    Its sublayers are `fc1` (D, mlp_dim) and `fc2` (mlp_dim, D), and, with `use_norm`, `norm` (mlp_dim).

    Args:
        mlp_dim: int. Width of the hidden layer.
        activation: str or callable. "gelu" (exact), "gelu_tanh" (flax's default), "quick_gelu" (OpenAI's CLIP), or any Keras activation.
            Defaults to "gelu".
        dropout_rate: float in [0, 1). Dropout after the activation and after `fc2`. Defaults to 0.0.
        use_norm: bool. Whether a layer normalization precedes `fc2`, as in EVA-02 ("sub-LN"). Defaults to False.
        norm_epsilon: float. What this normalization adds to the variance. Defaults to 1e-6.
        norm: "layer" or "rms". Kind of this normalization. Defaults to "layer".
        use_bias: bool. Whether `fc1` and `fc2` have biases. Defaults to True.

    Input and output shape: `(..., D)`, unchanged.

    Raises:
        ValueError: if `mlp_dim` is less than 1, `activation` or `norm` is unknown, or `dropout_rate` lies outside [0, 1).

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equation 3.

    Example:
    >>> keras_vit.layers.MLP(768)(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    hidden_factor = 1  # width of the output of `fc1`, in multiples of `mlp_dim`

    def __init__(
        self,
        mlp_dim: int,
        activation: Any = "gelu",
        dropout_rate: float = 0.0,
        use_norm: bool = False,
        norm_epsilon: float = 1e-6,
        norm: str = "layer",
        use_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.mlp_dim = checks.integer("mlp_dim", mlp_dim)
        self.activation = activation
        self.activate = activations.get(activation)
        self.dropout_rate = checks.rate("dropout_rate", dropout_rate)
        self.use_norm = use_norm
        self.norm_epsilon = norm_epsilon
        self.norm_kind = checks.one_of("norm", norm, NORMS)
        self.use_bias = use_bias

    def build(self, input_shape: tuple) -> None:
        self.fc1 = self._dense(self.hidden_factor * self.mlp_dim, "fc1")
        self.fc2 = self._dense(input_shape[-1], "fc2")
        self.dropout1 = Dropout(self.dropout_rate, name="dropout1", dtype=self.dtype_policy)
        self.dropout2 = Dropout(self.dropout_rate, name="dropout2", dtype=self.dtype_policy)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.mlp_dim))
        if self.use_norm:
            self.norm = NORMS[self.norm_kind](epsilon=self.norm_epsilon, name="norm", dtype=self.dtype_policy)
            self.norm.build((*input_shape[:-1], self.mlp_dim))
        self.sublayers_built()

    def _dense(self, units, name):
        initial = dict(kernel_initializer="glorot_uniform", bias_initializer=keras.initializers.RandomNormal(stddev=1e-6))
        return keras.layers.Dense(units, use_bias=self.use_bias, name=name, dtype=self.dtype_policy, **initial)

    def call(self, inputs: Any, training: bool = False) -> Any:
        hidden = self.activated(bare(self.fc1)(inputs))
        drops = training and self.dropout_rate
        if drops:
            hidden = self.dropout1(hidden, training=True)
        outputs = bare(self.fc2)(bare(self.norm)(hidden) if self.use_norm else hidden)
        return self.dropout2(outputs, training=True) if drops else outputs

    def activated(self, hidden: Any) -> Any:
        """Returns the hidden layer after the activation."""
        return self.activate(hidden)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "activation": activations.config(self.activation),
            "dropout_rate": self.dropout_rate,
            "use_norm": self.use_norm,
            "norm_epsilon": self.norm_epsilon,
            "norm": self.norm_kind,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class SwiGLU(MLP):
    """Applies a gated feed-forward network: `fc2(silu(gate) * value)`, where `gate, value = fc1(x)`.

    DINOv2's largest model, EVA-02 and AIMv2 use it.

    Its sublayers are `fc1` (D, 2 mlp_dim), with the gate's columns first, and `fc2` (mlp_dim, D), and, with `use_norm`, `norm` (mlp_dim).

    Args:
        mlp_dim: int. Width of the hidden layer, after gating.
        activation: str or callable. Activation of the gate. Defaults to "silu".
        dropout_rate: float in [0, 1). Dropout after gating and after `fc2`. Defaults to 0.0.
        use_norm: bool. Whether a layer normalization precedes `fc2`, as in EVA-02 ("sub-LN"). Defaults to False.
        norm_epsilon: float. What this normalization adds to the variance. Defaults to 1e-6.
        norm: "layer" or "rms". Kind of this normalization. Defaults to "layer".
        use_bias: bool. Whether `fc1` and `fc2` have biases. Defaults to True.

    Input and output shape: `(..., D)`, unchanged.

    Raises:
        ValueError: if `mlp_dim` is less than 1, `activation` or `norm` is unknown, or `dropout_rate` is not in [0, 1).

    Reference:
        Shazeer, "GLU Variants Improve Transformer", 2020.

    Example:
    >>> keras_vit.layers.SwiGLU(512)(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    hidden_factor = 2

    def __init__(self, mlp_dim: int, activation: Any = "silu", **kwargs: Any):
        super().__init__(mlp_dim, activation, **kwargs)

    def activated(self, hidden: Any) -> Any:
        gate, value = ops.split(hidden, 2, axis=-1)
        return self.activate(gate) * value
