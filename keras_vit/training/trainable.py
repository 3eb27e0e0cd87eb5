"""Functions that set which weights are trained: all, those after some blocks, or low-rank updates of the attention kernels."""

import re

import keras

from keras_vit.backbone import find_vision_transformer
from keras_vit.layers import checks

HEADS = ("head", "distillation_head")
AFTER_BLOCKS = ("norm", "attention_pooling", "pre_logits", *HEADS)


def freeze(model: keras.Model, blocks: int | str | None = None) -> None:
    """Sets which layers are trained. Compile the model afterwards.

    Args:
        model: a `VisionTransformer`, or a model that contains one. The layers around it stay as they are.
        blocks: None, int or "all". None trains everything. An int freezes the stem, the embeddings and this many encoder blocks, the
            first ones. "all" trains only the head (a linear probe). Defaults to None.

    Raises:
        ValueError: if `blocks` is none of these, or the model contains no `VisionTransformer`.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> keras_vit.training.freeze(model, 1)
    >>> [layer.name for layer in model.layers if layer.trainable and layer.weights]
    ['block_1', 'norm', 'head']
    """
    model = find_vision_transformer(model)
    count = model.config.num_layers
    if not (blocks is None or blocks == "all" or (checks.is_int(blocks, least=0) and blocks <= count)):
        raise ValueError(f'`blocks` must be None, an int from 0 to {count}, or "all". Received: blocks={blocks!r}')

    def trained(name):
        if blocks is None or name in HEADS:
            return True
        if blocks == "all":
            return False
        block = re.fullmatch(r"block_(\d+)", name)
        return int(block[1]) >= blocks if block else name in AFTER_BLOCKS

    for layer in model.layers:
        layer.trainable = trained(layer.name)


def add_lora(model: keras.Model, rank: int = 8, alpha: float | None = None) -> None:
    """Trains only the head and low-rank updates of the attention kernels (LoRA). Compile the model afterwards.

    Each kernel of queries, keys and values, and of the projection, becomes `kernel + alpha / rank * a @ b`. `a` is `(D, rank)`, and `b`
    is `(rank, 3 D)` or `(rank, D)` and starts at zero. `model.adapt()` returns the model with the updates merged into the kernels. A
    saved model keeps them separate. A model without updates that loads its weights gets the merged kernels.

    Args:
        model: a `VisionTransformer`, or a model that contains one. The layers around it stay as they are.
        rank: int. Rank of the updates. Defaults to 8.
        alpha: float or None. Scale of the updates, which are multiplied by `alpha / rank`. None means `rank`. Defaults to None.

    Raises:
        ValueError: if `rank` is less than 1, the model already has such updates, or it contains no `VisionTransformer`.

    Reference:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022, section 4.1.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> keras_vit.training.add_lora(model, rank=2)
    >>> sorted({v.name for v in model.trainable_variables})
    ['bias', 'kernel', 'lora_kernel_a', 'lora_kernel_b']
    """
    checks.integer("rank", rank)
    model = find_vision_transformer(model)
    for layer in model.layers:
        block = re.fullmatch(r"block_\d+", layer.name)
        layer.trainable = block is not None or layer.name in HEADS
        if block:
            layer.attention.qkv.enable_lora(rank, lora_alpha=alpha)
            layer.attention.projection.enable_lora(rank, lora_alpha=alpha)
            for variable in layer.weights:
                variable.trainable = variable.name.startswith("lora_kernel")
