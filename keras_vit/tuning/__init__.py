from keras_vit.tuning.hypermodel import ViTHyperModel
from keras_vit.tuning.spaces import SPACES, open_space
