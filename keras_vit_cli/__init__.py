"""The command line `keras-vit`. Each command has a file of its own; this one registers them and prints their errors.

Commands import Keras and TensorFlow inside their functions, within `console.quiet`, so that help and usage errors appear at once.
"""

import re
import sys
from typing import Annotated

import typer

from keras_vit_cli import (
    benchmark,
    convert,
    embed,
    evaluate,
    explain,
    export,
    info,
    list_presets,
    page,
    predict,
    push,
    quantize,
    scatter,
    similar,
    soup,
    train,
    tune,
)
from keras_vit_cli.console import quiet

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("explain")(explain.explain)
app.command("embed")(embed.embed)
app.command("app")(page.app)
app.command("similar")(similar.similar)
app.command("scatter")(scatter.scatter)
app.command("convert")(convert.convert)
app.command("soup")(soup.soup)
app.command("quantize")(quantize.quantize)
app.command("push")(push.push)
app.command("export")(export.export)
app.command("list")(list_presets.list_presets)
app.command("info")(info.info)
app.command("benchmark")(benchmark.benchmark)


@app.callback(invoke_without_command=True)
def keras_vit(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the versions and exit.")] = False):
    """Vision Transformers for Keras: train, evaluate, explain, convert and export them."""
    if version:
        with quiet():
            import keras

            from keras_vit import __version__
        print(f"keras-vit {__version__}, Keras {keras.__version__} on {keras.backend.backend()}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments=None):
    """Runs the command line and exits: with 0 after success, or with 2 and one line on stderr for an error that the user can correct.

    Args:
        arguments: list of str. Defaults to None, the arguments of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments, prog_name="keras-vit", standalone_mode=False)
    except (typer.TyperException, ValueError, ImportError, OSError) as error:
        print("keras-vit:", *in_options(describe(error), arguments).split(), file=sys.stderr)
        code = 2
    except Exception as error:  # TensorFlow wraps the error of an image that was damaged during the run
        from keras_vit.messages import file_error

        if not (lost := file_error(error)):
            raise
        print("keras-vit:", *lost.split(), file=sys.stderr)
        code = 2
    sys.exit(code)


def describe(error):
    """Returns the message of an error, for the user."""
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"  # without the error number
    return str(error)


NAMES = {"frozen_blocks": "freeze", "keep_best": "keep", "overwrite": "yes"}  # arguments of the package -> options with another name


def in_options(text, arguments):
    """Replaces arguments in an error message by options of the command: `seed` becomes `--seed`, and `seed=1` becomes `--seed 1`."""
    command = typer.main.get_command(app).commands.get(next(iter(arguments), None))
    options = {parameter.name: parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")} if command else {}

    def replace(match):
        option, value = options.get(NAMES.get(match[1], match[1])), match[2]
        if option is None:
            return match[0]
        return f"`{option}`" if value in (None, "True") else f"`{option} {value}`".replace("'", "")

    return re.sub(r"`(\w+)(?:=([^`]*))?`", replace, text)
