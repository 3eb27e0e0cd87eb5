import numpy as np
from PIL import Image

from keras_vit.data import load, show_batch


def test_the_first_batch_is_shown_row_by_row(tmp_path):
    images = np.arange(0, 250, 10)[:, None, None, None] * np.ones((1, 6, 8, 3))
    data = load((images, np.arange(25) % 2), batch_size=5)
    path = show_batch(data, tmp_path / "batch.png")
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 8 - 2, 3 * 10 - 2, 3)
    first, _ = next(iter(data.train))
    assert sheet[3, 4, 0] == first[0, 0, 0, 0] and sheet[3, 14, 0] == first[1, 0, 0, 0] and sheet[11, 4, 0] == first[3, 0, 0, 0]
