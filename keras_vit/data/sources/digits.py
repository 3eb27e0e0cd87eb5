"""The handwritten digits of scikit-learn, which need no download."""

from keras_vit.data.sources.arrays import arrays
from keras_vit.data.sources.source import Source


def digits(image_size: int | tuple[int, int] = 16) -> Source:
    """Returns the 1,797 handwritten digits that come with scikit-learn (8x8 pixels), enlarged to `image_size`.

    Args:
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 16.

    Returns:
        A `Source`.

    Raises:
        ImportError: if scikit-learn is not installed.

    Reference:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('The data source "digits" needs scikit-learn: pip install scikit-learn') from None
    bunch = load_digits()
    return arrays(bunch.images * (255.0 / 16.0), bunch.target, image_size=image_size)
