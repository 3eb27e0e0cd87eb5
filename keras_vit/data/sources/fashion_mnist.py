"""Fashion-MNIST: from Debian's package, from TensorFlow Datasets or, with `download=True`, from Keras's server."""

import os

from keras_vit.data.sources import idx
from keras_vit.data.sources.arrays import arrays
from keras_vit.data.sources.source import Source
from keras_vit.data.sources.tfds import find_prepared, tfds

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def fashion_mnist(
    folder: str = idx.FOLDER, image_size: int | tuple[int, int] = 28, download: bool = False, validation_fraction: float = 0.1
) -> Source:
    """Returns Fashion-MNIST: 70,000 pictures of clothes (28x28, gray), 10,000 of which are test images.

    Args:
        folder: path of the folder with the four IDX files. Defaults to the folder of Debian's package dataset-fashion-mnist. Without this
            package, a copy that TensorFlow Datasets has prepared is used.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 28.
        download: bool. Whether `keras.datasets` may download the data set (30 MB) to `~/.keras` if there is no copy. Defaults to False.
        validation_fraction: float in (0, 1). Share of validation images among the training images, stratified by class. Defaults to 0.1.

    Returns:
        A `Source`.

    Raises:
        ValueError: if there is no copy and `download` is False.

    Reference:
        Xiao et al., "Fashion-MNIST", 2017.
    """
    if os.path.isdir(folder):
        train, test = (idx.read_pair(folder, prefix) for prefix in ("train", "t10k"))
    elif folder == idx.FOLDER and find_prepared("fashion_mnist"):
        return tfds("fashion_mnist", image_size=image_size, validation_fraction=validation_fraction)
    elif folder == idx.FOLDER and download:
        import keras

        train, test = keras.datasets.fashion_mnist.load_data()
    else:
        raise ValueError(
            "There is no copy of Fashion-MNIST. Pass download=True (on the command line `--data-option download=true`), or run "
            f"`apt-get install dataset-fashion-mnist` or `tfds build fashion_mnist`. Received: folder={folder}"
        )
    return arrays(*train, test=test, class_names=CLASS_NAMES, image_size=image_size, validation_fraction=validation_fraction)
