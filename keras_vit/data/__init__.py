"""Images for training: a source becomes `tf.data` datasets whose order and augmentation are functions of the seed and the step."""

from keras_vit.data.augmentation import AUGMENTATIONS, Augmentation
from keras_vit.data.evaluation import evaluation_transform, read_image
from keras_vit.data.pipeline import Data, load
from keras_vit.data.preview import show_batch
from keras_vit.data.sources import SOURCES
