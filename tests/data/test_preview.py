import numpy as np
import pytest
from PIL import Image, ImageFont

from keras_vit.data import load, show_batch
from keras_vit.data.preview import captions, fitted


def test_the_first_batch_is_shown_row_by_row_with_its_classes(tmp_path):
    images = np.arange(0, 250, 10)[:, None, None, None] * np.ones((1, 6, 8, 3))
    data = load((images, np.arange(25) % 2), batch_size=5)
    path = show_batch(data, tmp_path / "batch.png")
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * (96 + 34), 3 * (128 + 6) - 6, 3)  # 6 x 8 pixels, sixteen times as large
    first = np.asarray(next(iter(data.train))[0])
    assert sheet[95, 127, 0] == first[0, 0, 0, 0] and sheet[3, 134, 0] == first[1, 0, 0, 0] and sheet[130, 0, 0] == first[3, 0, 0, 0]
    captions_below = sheet[96:124, :128]
    assert captions_below.min() < 100 and (sheet[124:130] == 255).all()


@pytest.mark.parametrize(
    "label, lines",
    [(1, ["dog"]), ([0.0, 1.0, 0.0], ["dog"]), ([0.75, 0.0, 0.25], ["75 % cat", "25 % a fish"]), ([1.0, 0.0, 1.0], ["cat", "a fish"])],
)
def test_captions(label, lines):
    assert captions(np.array(label), ["cat", "dog", "a fish"]) == lines


def test_long_names_are_cut():
    font = ImageFont.load_default(12)
    assert fitted("cat", font, 96) == "cat"
    cut = fitted("Staffordshire bull terrier", font, 96)
    assert cut.endswith("…") and font.getlength(cut) <= 96
