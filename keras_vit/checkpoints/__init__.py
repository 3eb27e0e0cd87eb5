"""Checkpoints in other people's formats: reading, loading and saving them."""

from keras_vit.checkpoints.loading import Checkpoint, load_into, new_model, open_checkpoint
from keras_vit.checkpoints.pretrained import from_pretrained
from keras_vit.checkpoints.recognition import FORMATS
from keras_vit.checkpoints.saving import save
