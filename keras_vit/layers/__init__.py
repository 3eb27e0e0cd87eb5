"""The layers of Vision Transformers, in the order in which an image passes them."""

from keras_vit.layers.activations import gelu_tanh, quick_gelu
from keras_vit.layers.resnet_stem import ResNetStem
from keras_vit.layers.conv_stem import ConvStem
from keras_vit.layers.patch_embedding import PatchEmbedding
from keras_vit.layers.prefix_tokens import ClassToken, RegisterTokens
from keras_vit.layers.position_embedding import PositionEmbedding
from keras_vit.layers.rotary_position_embedding import RotaryPositionEmbedding
from keras_vit.layers.patch_dropout import PatchDropout
from keras_vit.layers.transformer_encoder_block import TransformerEncoderBlock
from keras_vit.layers.token_merging import TokenMergingBlock, UnmergeTokens
from keras_vit.layers.multi_head_self_attention import MultiHeadSelfAttention
from keras_vit.layers.mlp import MLP, SwiGLU
from keras_vit.layers.layer_normalization import LayerNormalization
from keras_vit.layers.layer_scale import LayerScale
from keras_vit.layers.drop_path import DropPath
from keras_vit.layers.dropout import Dropout
from keras_vit.layers.attention_pooling import AttentionPooling

__all__ = [
    "AttentionPooling",
    "ClassToken",
    "ConvStem",
    "DropPath",
    "Dropout",
    "LayerNormalization",
    "LayerScale",
    "MLP",
    "MultiHeadSelfAttention",
    "PatchDropout",
    "PatchEmbedding",
    "PositionEmbedding",
    "RegisterTokens",
    "ResNetStem",
    "RotaryPositionEmbedding",
    "SwiGLU",
    "TokenMergingBlock",
    "TransformerEncoderBlock",
    "UnmergeTokens",
    "gelu_tanh",
    "quick_gelu",
]
