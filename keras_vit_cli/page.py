"""`keras-vit app`: shows a model on a web page."""

import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import quiet
from keras_vit_cli.explain import class_names_of
from keras_vit_cli.models import SOURCES, open_model


def app(
    model: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    index: Annotated[pathlib.Path, typer.Option(help="File of this model's features, as `keras-vit embed` writes it.")] = None,
    data: Annotated[str, typer.Option(help="The data of --index, if they have been moved.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port. [default: the first free one from 7860]")] = None,
):
    """Shows a model on a web page.

    Drop or photograph an image: the page shows its classes, what the model looked at and, with --index, the nearest images. A second tab
    has the figures of the paper. The page can only be opened on this machine, unless --host is given. Ctrl-C stops it.
    """
    with quiet():
        from keras_vit.app import Show, _gradio, serve
        from keras_vit.features import read_features

        _gradio()  # raises if it is not installed
    features = read_features(index) if index else None
    vit = open_model(model)
    show = Show(vit, class_names_of(vit, model), features, data)
    page = serve(show, pathlib.Path(model).name if pathlib.Path(model).exists() else model, host, port, block=False)
    print(f"{page.local_url} shows {model}; Ctrl-C stops it", flush=True)
    page.block_thread()
