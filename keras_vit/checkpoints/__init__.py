"""Published weights and checkpoints in other libraries' formats: find, read, load and save them."""

from keras_vit.checkpoints.card import model_card
from keras_vit.checkpoints.loading import Checkpoint, load_into, new_model, open_checkpoint
from keras_vit.checkpoints.pretrained import from_pretrained
from keras_vit.checkpoints.saving import FORMATS, save
