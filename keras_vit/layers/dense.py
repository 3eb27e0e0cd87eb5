"""A dense layer that saves its low-rank updates (LoRA), and one of queries, keys and values whose keys have no bias."""

from typing import Any

import keras
from keras import ops

LORA = ("_kernel", "lora_kernel_a", "lora_kernel_b")


class Dense(keras.layers.Dense):
    """Computes what `keras.layers.Dense` does, and keeps its low-rank updates (LoRA) in saved files.

    Keras saves the kernel with the updates merged, and sets both factors to zero when it loads the file. They then have no gradient and
    never train again. Here a file also holds the kernel and both factors. A layer without updates reads the merged kernel. Arguments,
    inputs and outputs are those of `keras.layers.Dense`.
    """

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        super().quantize(mode, type_check=False, config=config)  # Keras's type check refuses subclasses

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.lora_enabled:
            for name in LORA:
                store[name] = getattr(self, name)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables({key: store[key] for key in store.keys() if key not in LORA})
        if self.lora_enabled and LORA[0] in store.keys():
            for name in LORA:
                getattr(self, name).assign(store[name])
        elif self.lora_enabled:  # a file without updates: they start from new values
            shape = self.lora_kernel_a.shape
            self.lora_kernel_a.assign(keras.initializers.HeUniform()(shape, dtype=self.lora_kernel_a.dtype))


class QueryValueBiasDense(Dense):
    """Projects tokens to queries, keys and values, `units` wide together, where the keys have no bias.

    Its weight `bias` holds the biases of queries and values, of 2 / 3 `units`. The attribute `bias` is a tensor of `units` numbers with
    zeros for the keys, so every form of the product treats it as that of a `Dense`. Arguments, inputs and outputs are those of
    `keras.layers.Dense`.
    """

    def build(self, input_shape: tuple) -> None:
        self.use_bias = False
        super().build(input_shape)
        self.use_bias = True
        self.query_value_bias = self.add_weight(name="bias", shape=(self.units // 3 * 2,), initializer=self.bias_initializer)

    @property
    def bias(self) -> Any:
        query, value = ops.split(self.query_value_bias, 2)
        return ops.concatenate([query, ops.zeros_like(query), value])

    @bias.setter
    def bias(self, value: None) -> None:
        """Accepts the None that Keras's `build` sets where it adds no bias."""

    @property
    def variable_serialization_spec(self) -> dict:
        """The names of the weights in a file, by kind of quantization."""
        spec = super().variable_serialization_spec
        return {mode: ["query_value_bias" if name == "bias" else name for name in names] for mode, names in spec.items()}
