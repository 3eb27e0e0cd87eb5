"""What each of two workers does with tar files of its own."""

import keras
import numpy as np

from keras_vit import VisionTransformer
from keras_vit.data import load
from keras_vit.runtime import processes


def train_on_files(folder, strategy):
    """Returns what this worker read, and what training on it ended with.

    Args:
        folder: str. The tar files of this worker alone.
        strategy: the `tf.distribute.Strategy` of all workers.
    """
    data = load(folder, batch_size=8, image_size=8, shard=processes(), shard_by="files")
    seen = {int(image[4, 4, 0]) for images, _ in data.train_from(0).take(data.steps_per_epoch) for image in images.numpy()}

    def trained(*stretches):
        """Returns the model's weights after stretches (first step, number of steps) of training."""
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, num_classes=3)
            model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        for step, count in stretches:
            model.fit(data.train_from(step), steps_per_epoch=count, shuffle=False, verbose=0)
        return [array.tolist() for array in model.get_weights()]

    whole = trained((0, 6))
    assert np.isfinite(np.concatenate([np.ravel(array) for array in whole])).all()
    return {"seen": sorted(seen), "steps": data.steps_per_epoch, "weights": whole, "exact": whole == trained((0, 4), (4, 2))}
