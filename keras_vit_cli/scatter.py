"""`keras-vit scatter`: draws the features of a data set in two dimensions, with thumbnails."""

import enum
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import quiet


class Method(enum.StrEnum):
    PCA = "pca"
    TSNE = "tsne"


def scatter(
    index: Annotated[pathlib.Path, typer.Option(help="File of features, as `keras-vit embed` writes it.")],
    output: Annotated[pathlib.Path, typer.Option(help="PNG file for the picture.")],
    method: Annotated[Method, typer.Option(help="pca: two principal components; tsne: t-SNE, which takes longer.")] = Method.PCA,
    thumbnails: Annotated[int, typer.Option(min=0, help="Maximum number of thumbnails.")] = 60,
    data: Annotated[str, typer.Option(help="The data, if they have been moved. [default: those of the index]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of t-SNE.")] = 0,
):
    """Draws features in two dimensions.

    Each image of the index is a point in the color of its class. Some images are drawn as thumbnails.
    """
    if output.suffix != ".png":
        raise ValueError(f"`--output` must end with .png. Received: {output}")
    with quiet():
        from keras_vit.features import images_of, read_features
        from keras_vit.features import scatter as draw
        from keras_vit.files import replacing
    found = read_features(index)
    images = (lambda rows: images_of(found, rows, data)) if thumbnails else None
    axes = draw(found.features, found.labels, found.class_names, images, method.value, None, thumbnails, seed)
    with replacing(output) as temporary:
        axes.figure.savefig(temporary)
    print(f"{output}: {len(found.features):,} images")
