"""Layers whose configuration keeps the changes that a user made to sublayers."""

from typing import Any

import keras
import numpy as np

from keras_vit.runtime.keras_seams import quick_deletion


class KeepsSublayers:
    """Keeps the changes of sublayers in the configuration of a layer or model. A mixin.

    Keras writes only the configuration of the outer layer. A layer that is loaded, cloned or unpickled builds new sublayers, so a frozen,
    quantized or low-rank sublayer, or one of another precision, would lose that. This mixin adds an entry "sublayers" with the changes of
    each sublayer to `get_config`, and `from_config` applies them. Without changes there is no entry.

    `build` must end with `self.sublayers_built()`.
    """

    _sublayers_to_restore = None
    _as_built = None

    def sublayers_built(self) -> None:
        """Records the configurations of the sublayers, then applies the changes that `from_config` received."""
        if not self.trainable:
            for layer in self._layers:  # Keras leaves them trainable
                layer.trainable = False
        self._as_built = {layer.name: unshared(layer.get_config()) for layer in self._layers}
        self.restore_sublayers(self._sublayers_to_restore or {})

    def restore_sublayers(self, changed: dict[str, dict]) -> None:
        """Applies the changes in the entry "sublayers" of a configuration."""
        layers = {layer.name: layer for layer in self._layers}
        if unknown := set(changed) - set(layers):
            raise ValueError(f"`sublayers` must name layers of {self.name!r}. Received: {', '.join(sorted(unknown))}")
        for name, changes in changed.items():
            _restore(layers[name], changes)

    def get_config(self) -> dict[str, Any]:
        changed = self._changed_sublayers() if self._as_built is not None else self._sublayers_to_restore
        return {**super().get_config(), **({"sublayers": changed} if changed else {})}

    def _changed_sublayers(self):
        changed = {}
        for layer in self._layers:
            if layer.name in self._as_built:
                built = {**self._as_built[layer.name], "trainable": self.trainable}
                changes = {key: value for key, value in unshared(layer.get_config()).items() if key not in built or value != built[key]}
                if frozen := [v.name for v in layer._trainable_variables if layer.trainable and not v.trainable]:
                    changes["frozen_variables"] = frozen
                if changes:
                    changed[layer.name] = changes
        return changed

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        config = dict(config)
        sublayers = config.pop("sublayers", None)
        layer = super().from_config(config)
        layer._sublayers_to_restore = sublayers
        return layer


def unshared(config: Any) -> Any:
    """Returns a configuration without the ids that Keras adds to shared objects when it reads or writes a file."""
    if isinstance(config, dict):
        return {key: unshared(value) for key, value in config.items() if key != "shared_object_id"}
    return type(config)(map(unshared, config)) if type(config) in (list, tuple) else config


def kept_changes(changes: dict[str, Any], layer: keras.Layer) -> dict[str, Any]:
    """Returns the changes of a layer's configuration that `VisionTransformer.adapt` keeps.

    `adapt` merges low-rank updates, so their entries are left out. So are changes of sublayers that no longer exist.
    """
    sublayers = {child.name: child for child in layer._layers}
    changes = {key: value for key, value in changes.items() if key not in ("lora_rank", "lora_alpha")}
    kept = {name: kept_changes(changes, sublayers[name]) for name, changes in changes.pop("sublayers", {}).items() if name in sublayers}
    return {**changes, **({"sublayers": kept} if kept else {})}


def carry_over(source: keras.Layer, target: keras.Layer) -> None:
    """Copies a layer's weights, and its sublayers', into a layer that may be of another size: the layer that owns a weight resizes it."""
    store = {}
    source.save_own_variables(store)
    # Copies: on JAX, training the new model would free arrays that both have.
    store = {key: np.array(keras.ops.convert_to_numpy(value)) for key, value in store.items()}
    if store:
        try:
            target.load_own_variables(store)
        except ValueError as error:
            raise ValueError(f"The weights of layer {source.path!r} do not fit the adapted model: {error}") from error
    mine = {child.name: child for child in source._layers}
    for child in target._layers:
        if child.name in mine:
            carry_over(mine[child.name], child)


def _restore(layer, changes):
    """Applies saved changes to a built layer.

    Args:
        layer: keras.Layer. The built layer.
        changes: dict. The entries of `get_config` that differ from those at `build`, and "frozen_variables", a list of names.
    """
    changes = dict(changes)
    if "trainable" in changes:
        layer.trainable = changes.pop("trainable")
    if "dtype" in changes:
        policy = keras.dtype_policies.get(changes.pop("dtype"))
        if policy.quantization_mode is not None:
            config = keras.saving.deserialize_keras_object(changes.pop("quantization_config", None))
            with quick_deletion():
                layer.quantize(policy.quantization_mode, config=config)
        layer.dtype_policy = policy
    if "lora_rank" in changes:
        layer.enable_lora(changes.pop("lora_rank"), lora_alpha=changes.pop("lora_alpha", None))
    for variable in layer._trainable_variables:
        if variable.name in changes.get("frozen_variables", ()):
            variable.trainable = False
    changes.pop("frozen_variables", None)
    if sublayers := changes.pop("sublayers", None):
        layer.restore_sublayers(sublayers)
    if changes:
        twin = type(layer).from_config({**layer.get_config(), **changes})
        for name in changes:
            setattr(layer, name, getattr(twin, name))
