"""Look inside a Vision Transformer: what it attends to, what speaks for a class, and what its weights have learned."""

from keras_vit.visualize.attention_maps import attention_maps, attention_weights
from keras_vit.visualize.attention_rollout import attention_rollout
from keras_vit.visualize.grad_cam import grad_cam
from keras_vit.visualize.relevance import relevance

__all__ = [
    "attention_maps",
    "attention_rollout",
    "attention_weights",
    "grad_cam",
    "relevance",
]
