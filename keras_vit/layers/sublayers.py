"""Layers whose configuration keeps what a user changed in their sublayers."""

import keras


class KeepsSublayers:
    """Mixin of a layer or model whose configuration keeps the changes of its sublayers.

    Keras writes the configuration of such a layer only. A layer that is loaded, cloned or unpickled
    builds its sublayers anew, and none of them is frozen, quantized, low-rank or of another
    precision. This mixin adds an entry "sublayers" with the changes of each sublayer to
    `get_config`; `from_config` applies them. Without changes there is no such entry.

    `build` must end with `self.sublayers_built()`.
    """

    _sublayers_to_restore = None
    _as_built = None

    def sublayers_built(self):
        """Records the sublayers' configurations, and makes the changes that `from_config` was given."""
        if not self.trainable:
            for layer in self._layers:  # Keras leaves them trainable
                layer.trainable = False
        self._as_built = {layer.name: unshared(layer.get_config()) for layer in self._layers}
        self.restore_sublayers(self._sublayers_to_restore or {})

    def restore_sublayers(self, changed):
        """Makes the changes that the entry "sublayers" of a configuration lists."""
        layers = {layer.name: layer for layer in self._layers}
        if unknown := set(changed) - set(layers):
            raise ValueError(f"`sublayers` must name layers of {self.name!r}. Received: {', '.join(sorted(unknown))}")
        for name, changes in changed.items():
            _restore(layers[name], changes)

    def get_config(self):
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
    def from_config(cls, config):
        config = dict(config)
        sublayers = config.pop("sublayers", None)
        layer = super().from_config(config)
        layer._sublayers_to_restore = sublayers
        return layer


def unshared(config):
    """Returns a configuration without the ids that Keras gives to shared objects while it reads or writes a file."""
    if isinstance(config, dict):
        return {key: unshared(value) for key, value in config.items() if key != "shared_object_id"}
    return type(config)(map(unshared, config)) if type(config) in (list, tuple) else config


def kept_changes(changes, layer):
    """Returns the changes of a layer's configuration that `VisionTransformer.adapt` keeps.

    Low-rank updates are merged, and sublayers that are gone have no changes.
    """
    sublayers = {child.name: child for child in layer._layers}
    changes = {key: value for key, value in changes.items() if key not in ("lora_rank", "lora_alpha")}
    kept = {name: kept_changes(changes, sublayers[name]) for name, changes in changes.pop("sublayers", {}).items() if name in sublayers}
    return {**changes, **({"sublayers": kept} if kept else {})}


def _restore(layer, changes):
    """Makes the changes to a built layer that its configuration had.

    Args:
        layer: layer.
        changes: dict, the entries of its `get_config` that differ from those it was built with, and "frozen_variables", a list of names.
    """
    changes = dict(changes)
    if "trainable" in changes:
        layer.trainable = changes.pop("trainable")
    if "dtype" in changes:
        policy = keras.dtype_policies.get(changes.pop("dtype"))
        if policy.quantization_mode is not None:
            config = keras.saving.deserialize_keras_object(changes.pop("quantization_config", None))
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
