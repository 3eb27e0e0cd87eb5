"""`keras-vit convert`: converts weights from one format to another."""

import enum
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import check_new_file, quiet
from keras_vit_cli.models import FORCE, SOURCES, open_model


class Format(enum.StrEnum):
    TIMM = "timm"
    HUGGINGFACE = "huggingface"
    GOOGLE = "google"
    PERCEPTION_ENCODER = "perception_encoder"
    DINOV3 = "dinov3"


def convert(
    source: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Argument(help="A file *.keras; or with --format a folder, or for google a file *.npz.")],
    format: Annotated[Format | None, typer.Option(help="Another library's format. [default: Keras's]")] = None,
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--no-ema", help="In a file with two sets of weights, use the moving average or the other. [default: ema]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=FORCE)] = False,
):
    """Converts weights.

    Reads any format that `keras_vit.from_pretrained` reads, and writes Keras's own format or that of timm, transformers,
    vision_transformer or Perception Encoder. A folder for timm or transformers gets a model card, README.md, with data, recipe and results
    if the source is a run. The output is complete or absent.
    """
    check_new_file(output, force)
    if (output.suffix == ".keras") == (format is not None):
        raise ValueError(f"The output must be a file *.keras, or `--format` must name another format. Received: {output}")
    with quiet():
        from keras_vit import from_pretrained
        from keras_vit.checkpoints import save
        from keras_vit.files import replacing, require_space
    model = open_model(source) if ema is None else from_pretrained(source, ema=ema)
    if format is None:
        require_space(output, 4 * model.count_params())
        with replacing(output) as temporary:
            model.save(temporary)
    else:
        save(model, output, format.value, source)
    print(f"{output}: {model.count_params():,} parameters")
