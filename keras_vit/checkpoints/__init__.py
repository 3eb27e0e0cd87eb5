"""Checkpoints in other people's formats: reading, loading and saving them."""

from keras_vit.checkpoints.loading import FORMATS, load_into, new_model, open_checkpoint
