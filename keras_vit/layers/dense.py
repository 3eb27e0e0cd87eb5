"""A dense layer that saves its low-rank updates (LoRA)."""

from typing import Any

import keras

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
