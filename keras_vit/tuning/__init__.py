"""Hyperparameter search with Keras Tuner: search spaces as data, and searches that resume."""

from keras_vit.tuning.hypermodel import ViTHyperModel
from keras_vit.tuning.report import write_report
from keras_vit.tuning.spaces import SPACES, open_space
from keras_vit.tuning.study import read_trials
from keras_vit.tuning.tuners import Search
