"""Training with `model.fit`: recipes, optimizers, runs that resume, and a report with pictures."""

# `import keras_vit` imports this package, so that saved models find their optimizers and losses: nothing here may import TensorFlow.
from keras_vit.files import replacing
from keras_vit.training import losses
from keras_vit.training.devices.memory import check_memory
from keras_vit.training.devices.sharding import layout_map
from keras_vit.training.devices.strategy import check_batch, count_replicas, strategy, virtual_devices
from keras_vit.training.distillation import Distillation
from keras_vit.training.optimizers import SGD, AdamW, Lamb, Muon
from keras_vit.training.recipe import Recipe
from keras_vit.training.recipes import RECIPES
from keras_vit.training.results.metrics import evaluate_predictions
from keras_vit.training.results.predictions import predict_dataset
from keras_vit.training.results.report import write_report
from keras_vit.training.resume import Checkpoints
from keras_vit.training.run import Run
from keras_vit.training.share import push
from keras_vit.training.trainable import add_lora, freeze
