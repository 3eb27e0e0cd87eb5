"""One of two workers that train on tar files of their own, as TF_CONFIG says: prints what it read and what it ended with.

python tests/training/worker_files.py FOLDER     of this worker alone
"""

import faulthandler
import json
import sys

import numpy as np

from keras_vit.training import strategy

faulthandler.dump_traceback_later(600, exit=True)
ALL = strategy(wait_seconds=300)  # first of all: TensorFlow asks for that

import keras  # noqa: E402

from keras_vit import VisionTransformer  # noqa: E402
from keras_vit.data import load  # noqa: E402
from keras_vit.runtime import processes  # noqa: E402

data = load(sys.argv[1], batch_size=8, image_size=8, shard=processes(), shard_by="files")
seen = sorted({int(images[row, 4, 4, 0]) for images, _ in data.train_from(0).take(data.steps_per_epoch) for row in range(len(images))})


def trained(*stretches):
    """Returns the model's weights after stretches (first step, number of steps) of training."""
    keras.utils.set_random_seed(0)
    with ALL.scope():
        model = VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, num_classes=3)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    for step, count in stretches:
        model.fit(data.train_from(step), steps_per_epoch=count, shuffle=False, verbose=0)
    return [array.tolist() for array in model.get_weights()]


whole, resumed = trained((0, 6)), trained((0, 4), (4, 2))
print("ANSWER", json.dumps({"seen": seen, "steps": data.steps_per_epoch, "weights": whole, "exact": whole == resumed}))
assert np.isfinite(np.concatenate([np.ravel(array) for array in whole])).all()
