"""`keras-vit push`: uploads a model to the Hugging Face Hub."""

import enum
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import quiet
from keras_vit_cli.models import SOURCES


class Format(enum.StrEnum):
    HUGGINGFACE = "huggingface"
    TIMM = "timm"
    KERAS = "keras"


def push(
    source: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    repository: Annotated[str, typer.Argument(help="hf://owner/name; created if it does not exist.")],
    format: Annotated[Format, typer.Option(help="huggingface: for transformers; keras can hold every model.")] = Format.HUGGINGFACE,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. [default: private]")] = False,
    license: Annotated[str, typer.Option(help="Such as apache-2.0. [default: that of the weights that training started from]")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Replace existing files without asking.")] = False,
):
    """Uploads a model to the Hugging Face Hub.

    Uploads the weights, the configuration, and a model card with data, recipe, results, license and code that loads the model. Needs
    `hf auth login`.
    """
    with quiet():
        from keras_vit.training import share

    def ask(files):
        if not sys.stdin.isatty():
            return False
        return typer.confirm(f"{repository} has {', '.join(files)}. Replace them?")

    print(share.push(source, repository, format.value, not public, license, yes or ask))
