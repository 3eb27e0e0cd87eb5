"""What `model.fit` needs around it: recipes, checkpoints to go on from, and a report with pictures."""

from keras_vit.files import replacing
from keras_vit.training.recipes import RECIPES, Recipe
from keras_vit.training.report import write_report
from keras_vit.training.resume import Checkpoints
