"""How users call the package, for the type checker: `pyright` reads this file, nothing runs it."""

from typing import assert_type

import keras_vit
from keras_vit import VisionTransformer, ViTConfig

model = keras_vit.ViTB16(num_classes=10, weights="imagenet", drop_path_rate=0.1, class_names=("cat", "dog"))
assert_type(model, VisionTransformer)
assert_type(model.adapt(num_classes=3), VisionTransformer)
assert_type(model.config, ViTConfig)
assert_type(model.config.replace(num_classes=3).num_tokens, int | None)
assert_type(VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10).class_names, tuple[str, ...] | None)
assert_type(keras_vit.from_pretrained("folder", num_classes=3), VisionTransformer)
assert_type(keras_vit.cost("ViTB16", batch_size=8).parameters, int)
assert_type(keras_vit.list_models("*B16*"), list[str])
assert_type(keras_vit.list_weights("ViTB16")[0].tag, str)
keras_vit.embed(model, ["cat.jpg"], pooling="gap", blocks=(0, -1))
keras_vit.feature_maps(model, blocks=(0, -1))
keras_vit.training.freeze(model, 1)
keras_vit.training.add_lora(model, rank=8)
keras_vit.data.evaluation_transform(model)
keras_vit.ViTB16(classes=10)  # pyright: ignore[reportCallIssue]
