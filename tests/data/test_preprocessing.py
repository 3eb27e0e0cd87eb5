import json
import pathlib
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.data.augmentation.crops import evaluation_crop
from keras_vit.data.preprocessing import evaluation_transform, read_image

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "evaluation.npz"))
CASES = json.loads(str(GOLDEN["cases"]))


def model_for(rows=32, columns=32, channels=3, **arguments):
    shape = (channels, rows, columns) if arguments.get("data_format") == "channels_first" else (rows, columns, channels)
    return keras_vit.VisionTransformer(shape, 16, 16, 1, 2, 16, num_classes=3, **arguments)


def picture(rows=48, columns=64, channels=3, seed=0):
    shape = (rows, columns, channels) if channels else (rows, columns)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_it_is_timms_transform(number):
    case = CASES[number]
    rows, columns = case["img_size"] if isinstance(case["img_size"], list) else [case["img_size"]] * 2
    keys = {"crop_fraction": "crop_pct", "crop_mode": "crop_mode", "interpolation": "interpolation"}
    transform = evaluation_transform(model_for(rows, columns, preprocessing={ours: case[theirs] for ours, theirs in keys.items()}))
    transformed = transform(GOLDEN[f"picture_{number}"])
    assert transformed.dtype == np.float32
    np.testing.assert_array_equal(transformed, GOLDEN[f"transformed_{number}"])


@pytest.mark.parametrize("denominator", [248, 252, 256, 269])
def test_a_fraction_of_ints_is_not_rounded_down(denominator):
    transform = evaluation_transform(model_for(224, 224, preprocessing={"crop_fraction": 224 / denominator}))
    image = picture(denominator, denominator)  # not resized if the side is right: then only cropped
    start = round((denominator - 224) / 2)
    np.testing.assert_array_equal(transform(image), image[start : start + 224, start : start + 224])


def test_what_the_model_takes():
    image, raw = picture(32, 32), {"preprocessing": {"mean": (0.5, 0.4, 0.3), "std": 0.25, "crop_fraction": 1.0}}
    np.testing.assert_array_equal(evaluation_transform(model_for(**raw))(image), image)
    normalized = evaluation_transform(model_for(**raw, include_preprocessing=False))(image)
    np.testing.assert_allclose(normalized, (image / 255.0 - (0.5, 0.4, 0.3)) / 0.25, atol=1e-6)
    first = evaluation_transform(model_for(**raw, data_format="channels_first"))(image)
    np.testing.assert_array_equal(first, np.moveaxis(image, -1, 0))
    assert evaluation_transform(model_for(channels=1))(image).shape == (32, 32, 1)
    sized = {"preprocessing": {"size": 48}, "position_embedding": "sincos2d"}
    assert evaluation_transform(model_for(None, None, **sized))(image).shape == (48, 48, 3)
    assert evaluation_transform(model_for(32, 32, **sized))(image).shape == (32, 32, 3)  # the input's size is the stronger word
    assert evaluation_transform(model_for(None, None))(image).shape == (224, 224, 3)


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ({"preprocessing": {"interpolation": "cubic"}}, "`interpolation` must be one of 'nearest'"),
        ({"preprocessing": {"crop_mode": "border"}}, "`crop_mode` must be one of 'center', 'squash'"),
        ({"preprocessing": {"crop_fraction": 1.5}}, "`crop_fraction` must lie in"),
        ({"channels": 4}, "models of 1 or 3 channels. Received: a model of 4"),
    ],
)
def test_preprocessing_that_is_unknown(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        evaluation_transform(model_for(**arguments))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_color_mode_becomes_rgb(mode):
    image = Image.fromarray(picture())
    image = (
        image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode) if mode != "LAB" else Image.new("LAB", (64, 48))
    )
    read = read_image(image)
    assert read.mode == "RGB" and read.size == (64, 48)
    if mode not in ("LAB",):
        np.testing.assert_array_equal(read, image.convert("RGB"))


def test_a_palette_with_transparency_keeps_its_colors(tmp_path):
    image = Image.fromarray(picture()).quantize(8)
    image.save(tmp_path / "image.png", transparency=bytes([0, 255, 255, 255, 255, 255, 255, 255]))
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), image.convert("RGB"))


def test_sixteen_bits_become_eight(tmp_path):
    gray = picture(channels=0)
    Image.fromarray(gray.astype("uint16") * 257).save(tmp_path / "image.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "image.png", "L")), gray)


def test_arrays():
    gray = picture(channels=0)
    for array in (gray, gray[..., None], np.stack([gray] * 3, -1), gray.astype("float32"), gray.astype("int64")):
        np.testing.assert_array_equal(np.asarray(read_image(array)), np.stack([gray] * 3, -1))
    assert read_image(picture(channels=4)).mode == "RGB"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2)),
        np.zeros(4),
        np.zeros((0, 4, 3)),
        np.full((4, 4), -1.0),
        np.full((4, 4), 256),
        np.full((4, 4), np.nan),
        np.array("x"),
    ],
)
def test_arrays_that_are_no_image(array):
    with pytest.raises(ValueError, match="An array must be an image"):
        read_image(array)


def test_pixels_from_0_to_1_are_said():
    with pytest.warns(UserWarning, match="values from 0 to 1, not to 255: multiply them by 255"):
        read_image(np.linspace(0, 1, 48).reshape(4, 4, 3))
    with pytest.raises(ValueError, match="as if normalized already"):
        read_image(np.linspace(-1, 1, 48).reshape(4, 4, 3))
    with pytest.raises(ValueError, match="np.moveaxis"):
        read_image(np.zeros((3, 24, 32)))


def test_odd_metadata_does_not_hide_the_pixels(tmp_path):
    upright = picture(30, 50)
    orientation = struct.pack("<HHLHH", 0x112, 3, 1, 6, 0)
    resolution = struct.pack("<HHLL", 0x11A, 10, 1, 38)  # a signed rational, -1 / 0, which Pillow cannot write back
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + orientation + resolution + struct.pack("<Lll", 0, -1, 0)
    Image.fromarray(upright).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(upright, -1))
    for metadata in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*nothing", b"Exif\0\0"):
        Image.fromarray(upright).save(tmp_path / "odd.jpg", exif=metadata, quality=95)
        assert read_image(tmp_path / "odd.jpg").size == (50, 30)


def test_an_image_that_was_turned_is_not_turned_again(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(30, 50)).save(tmp_path / "photo.jpg", exif=exif)
    once = read_image(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(read_image(once), once)


@pytest.mark.parametrize("error", [TypeError("odd"), RuntimeError("odd"), struct.error("odd"), IndexError("odd")])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    def fail(self):
        raise error

    Image.fromarray(picture()).save(tmp_path / "odd.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ValueError, match="odd.png"):
        read_image(tmp_path / "odd.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path, orientation):
    upright = Image.fromarray(picture(30, 50))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpositions of Pillow that the orientations of EXIF undo
    turned = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), upright)


def test_broken_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(picture(200, 200)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "text.jpg", "empty.png", ""):
        with pytest.raises(ValueError, match="must be whole and of a format.*Received: ") as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(ValueError, match="No such image file. Received: nowhere.png"):
        read_image("nowhere.png")


def test_an_image_too_large_to_be_honest_is_refused(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="decompression bomb.*bomb.png"):
        read_image(tmp_path / "bomb.png")


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        read_image("photo.png")


def test_images_that_would_cost_gigabytes(tmp_path):
    """A narrow image is cut to its middle before it is enlarged, and a file of another kind starts no other program."""
    from PIL import Image

    columns = np.arange(30_000) // 200
    narrow = Image.fromarray(np.broadcast_to(columns.astype("uint8"), (1, 30_000)))
    narrow.save(tmp_path / "narrow.png")
    transform = evaluation_transform(model_for(16, 16))
    tracemalloc.start()
    for turned in (narrow, narrow.transpose(Image.Transpose.TRANSPOSE), tmp_path / "narrow.png"):
        assert np.abs(transform(turned) - 75).max() <= 1  # the column in the middle
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    crop = evaluation_crop({"interpolation": "bicubic", "crop_mode": "center", "crop_fraction": 1.0})
    assert np.abs(crop(np.broadcast_to(columns[None, :, None], (1, 30_000, 3)).astype("uint8"), None, (16, 16)).numpy() - 75.0).max() <= 1
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="of a format that Pillow reads"):
        transform(tmp_path / "x.png")
