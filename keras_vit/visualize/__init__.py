"""Functions that show what a Vision Transformer attends to, which patches support a class, and what its weights have learned."""

from keras_vit.visualize.attention_distance import attention_distance, mean_attention_distances
from keras_vit.visualize.attention_maps import attention_maps, attention_weights
from keras_vit.visualize.attention_rollout import attention_rollout
from keras_vit.visualize.cost_curves import cost_curves
from keras_vit.visualize.grad_cam import grad_cam
from keras_vit.visualize.model_figure import model_figure
from keras_vit.visualize.overlay import overlay
from keras_vit.visualize.patch_filters import patch_filters
from keras_vit.visualize.patch_pca import patch_components, patch_pca
from keras_vit.visualize.position_similarity import position_similarity
from keras_vit.visualize.relevance import relevance

__all__ = [
    "attention_distance",
    "attention_maps",
    "attention_rollout",
    "attention_weights",
    "cost_curves",
    "grad_cam",
    "mean_attention_distances",
    "model_figure",
    "overlay",
    "patch_components",
    "patch_filters",
    "patch_pca",
    "position_similarity",
    "relevance",
]
