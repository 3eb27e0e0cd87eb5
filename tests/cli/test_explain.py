import numpy as np
import pytest
from helpers import command, tiny
from PIL import Image

call = command("explain")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / name for name in ("wide photo.jpg", "high.png", "other/high.png")]
    paths[2].parent.mkdir()
    for path, shape in zip(paths, [(40, 60, 3), (70, 50, 3), (33, 33)]):
        Image.fromarray(random.integers(0, 256, shape, dtype="uint8")).save(path)
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as `keras-vit train` leaves it, with class names."""
    folder = tmp_path_factory.mktemp("run")
    tiny(num_classes=3).save(folder / "model.keras")
    (folder / "config.toml").write_text('data = "pets"\nclass_names = ["cat", "dog", "owl"]\n')
    return folder


def test_a_picture_for_each_image_and_a_page(capsys, tmp_path, run, photos):
    cases = {
        "attention": ["--block", 0, "--smooth"],
        "rollout": [],
        "relevance": ["--class", "owl"],
        "grad-cam": ["--class", "1", "--block", "-1"],
        "pca": ["--figures"],
    }
    for method, more in cases.items():
        output = tmp_path / method
        code, out, error = call(capsys, "--model", run, "--output", output, "--method", method, *more, *photos)
        assert code == 0, error
        pictures = {"wide photo.png", "high.png", "high-2.png"}
        if "--figures" in more:
            pictures |= {"patch_filters.png", "position_similarity.png", "attention_distance.png", "model.svg"}
        assert {path.name for path in output.iterdir()} == {*pictures, "index.html"}
        assert out == f"{len(pictures)} pictures and index.html in {output}\n"
        page = (output / "index.html").read_text()
        assert all(f'src="{name}"' in page for name in pictures) and all(str(photo) in page for photo in photos)
        assert min(Image.open(output / name).width for name in pictures if name.endswith("png")) > 400


def test_figures_alone_of_weights_without_a_head(capsys, tmp_path):
    model = tiny(include_top=False, position_embedding="none")
    model.save(tmp_path / "features.keras")
    code, out, _ = call(capsys, "--model", tmp_path / "features.keras", "--output", tmp_path / "out", "--figures")
    assert code == 0 and {path.name for path in (tmp_path / "out").iterdir()} == {"model.svg", "patch_filters.png", "index.html"}
    assert out.startswith("attention_distance.png is not drawn: it needs images")


def test_wrong_usage(capsys, tmp_path, run, photos):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "text.png").write_text("no image")
    tiny(include_top=False).save(tmp_path / "features.keras")
    for arguments, message in (
        ([], "There is nothing to draw: name image files, or give `--figures`"),
        (["--output", tmp_path / "full", photos[0]], "must be a new or empty folder"),
        ([tmp_path / "missing.png"], "missing.png"),
        ([tmp_path / "text.png"], "text.png"),
        (["--block", 2, photos[0]], "between -2 and 1. Received: 2"),
        (
            ["--method", "rollout", "--block", 1, photos[0]],
            "needs the method attention, grad-cam, pca. Received: --block 1 with --method rollout",
        ),
        (["--class", "owl", photos[0]], "`--class` needs the method relevance, grad-cam."),
        (["--method", "relevance", "--class", "fish", photos[0]], "Unknown class; there is 'cat', 'dog', 'owl', or a number below 3"),
        (["--method", "relevance", "--class", "99", photos[0]], "there is 'cat', 'dog', 'owl', or a number below 3. Received: --class 99"),
        (["--method", "saliency", photos[0]], "saliency"),
        (["--model", tmp_path / "features.keras", "--method", "relevance", photos[0]], "needs a model with a head"),
        (["--model", tmp_path / "nowhere.keras", photos[0]], "nowhere.keras"),
    ):
        code, out, error = call(capsys, "--model", run, "--output", tmp_path / "out", *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error
        assert not (tmp_path / "out").exists()
