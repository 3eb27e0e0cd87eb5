"""`keras-vit embed`: the features of a data set, in a file."""

import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import quiet
from keras_vit_cli.evaluate import Split
from keras_vit_cli.models import DATA, POOLING, SOURCES, Pooling, data_of, open_data, open_model


def embed(
    model: Annotated[str, typer.Option(help=f"Preset, with --weights; or {SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Option(help="File for the features, a new one that ends with .npz or .parquet.")],
    data: Annotated[str, typer.Option(help=DATA)] = None,
    weights: Annotated[str, typer.Option(help="Tag of the preset, or weights as for --model.")] = None,
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.ALL,
    data_option: Annotated[list[str], typer.Option(help="NAME=VALUE for the data source, such as data_dir=sets; repeatable.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read, instead of skipping it.")] = False,
    pooling: Annotated[Pooling, typer.Option(help=POOLING)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are computed at once.")] = 32,
):
    """Computes the features of a data set.

    Writes features, labels, splits and the number of each image within its split. After a kill the same command resumes. Images are
    resized and cropped as the weights' authors did.
    """
    with quiet():
        from keras_vit.features import write_features
        from keras_vit.features.files import check_path
    check_path(output)
    source = weights or model
    data = data_of(source, data)
    vit = open_model(model, weights)
    loaded, settings = open_data(source, vit, data, data_option, strict)
    settings |= {"model": absolute(model), "weights": weights and absolute(weights)}
    found = write_features(output, vit, loaded, split.value, pooling and pooling.value, batch_size, settings)
    count, width = found.features.shape
    print(f"{output}: {count:,} images, {width} features each")


def absolute(source):
    """Returns the absolute path of a file or folder; the name of anything else as it is."""
    path = pathlib.Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source
