"""`keras-vit embed`: writes the features of a data set, or of a folder of photographs, into a file."""

import pathlib
import sys
from typing import Annotated

import typer

from keras_vit_cli.configs import parse_options
from keras_vit_cli.console import quiet
from keras_vit_cli.evaluate import Split
from keras_vit_cli.models import (
    BATCH_SIZE,
    DATA_OPTION,
    DATA_SOURCES,
    MODEL_SIZE,
    POOLING,
    SOURCES,
    STRICT,
    Pooling,
    config_of,
    data_of,
    open_data,
    open_model,
)


def embed(
    model: Annotated[str, typer.Option(help=f"Preset, with --weights; or {SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Option(help="New file for the features, .npz or .parquet.")],
    data: Annotated[str, typer.Option(help=f"{DATA_SOURCES} Or a folder of images without classes. [default: the run's]")] = None,
    weights: Annotated[str, typer.Option(help="Tag of the preset, or weights as for --model.")] = None,
    split: Annotated[Split, typer.Option(help="Images to embed.")] = Split.ALL,
    data_option: Annotated[list[str], typer.Option(help=DATA_OPTION)] = None,
    unlabeled: Annotated[bool, typer.Option("--unlabeled", help="Read all images under the folder at any depth, without classes.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = False,
    pooling: Annotated[Pooling, typer.Option(help=POOLING)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help=BATCH_SIZE)] = 32,
    image_size: Annotated[int, typer.Option(min=1, help=MODEL_SIZE)] = None,
):
    """Computes the features of a data set, or of a folder of photographs.

    Writes the features, labels and splits of all images, and the number of each image within its split. If the folder has no subfolders of
    images, or with --unlabeled, it writes the names of the files instead of labels. If it is killed, the same command resumes. Images are
    resized and cropped as in the evaluation of the weights.
    """
    with quiet():
        from keras_vit.data.sources import SOURCES
        from keras_vit.data.sources.tars import holds_tars
        from keras_vit.features import write_features
        from keras_vit.features.files import check_path
        from keras_vit.features.unlabeled import has_no_classes
    check_path(output)
    source = weights or model
    data = data_of(source, data)
    folder = pathlib.Path(data).expanduser()
    is_folder = data not in SOURCES and folder.is_dir() and not holds_tars(folder)
    unlabeled = unlabeled or (is_folder and has_no_classes(folder))
    if unlabeled and split is not Split.ALL:
        raise ValueError(f"Images without classes have no splits. Received: --split {split.value}")
    kept = {"model": absolute(model), "weights": weights and absolute(weights)} | ({"image_size": image_size} if image_size else {})
    chosen = (pooling and pooling.value, batch_size)
    if unlabeled:
        if not is_folder:
            raise ValueError(f"`--unlabeled` needs a folder of images. Received: --data {data}")
        options = parse_options(data_option)
        if unknown := options.keys() - {"image_size"}:
            raise ValueError(f"Images without classes have one option, image_size. Received: --data-option {min(unknown)}")
        print(f"keras-vit: {data} is read as images without classes, all under it", file=sys.stderr)
        vit = open_model(model, weights, image_size)
        size = options.get("image_size", image_size or config_of(source).get("image_size"))
        found = write_features(output, vit, folder, "all", *chosen, kept, image_size=size, strict=strict)
    else:
        vit = open_model(model, weights, image_size)
        try:
            loaded, settings = open_data(source, vit, data, data_option, strict)
        except ValueError as error:
            if not is_folder or "class" not in str(error):
                raise
            raise ValueError(f"{error}. `--unlabeled` reads all images under it, without classes") from None
        if is_folder:
            names = ", ".join(loaded.class_names[:5]) + ", ..." * (len(loaded.class_names) > 5)
            say = f"{data} is read as images of {len(loaded.class_names)} classes, {names}; --unlabeled reads them without classes"
            print(f"keras-vit: {say}", file=sys.stderr)
        found = write_features(output, vit, loaded, split.value, *chosen, settings | kept)
    count, width = found.features.shape
    print(f"{output}: {count:,} images, {width} features each")


def absolute(source):
    """Returns the absolute path of an existing file or folder; any other name as it is."""
    path = pathlib.Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source
