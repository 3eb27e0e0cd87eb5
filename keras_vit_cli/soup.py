"""`keras-vit soup`: averages the weights of several runs."""

import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import check_new_file, quiet, table
from keras_vit_cli.models import BATCH_SIZE, DATA, DATA_OPTION, FORCE, SOURCES, data_of, open_data, open_model


def soup(
    models: Annotated[list[str], typer.Argument(help=f"Two or more: {SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Option(help="File *.keras for the soup.")],
    greedy: Annotated[bool, typer.Option("--greedy", help="Only add a model if the validation accuracy does not fall.")] = False,
    data: Annotated[str, typer.Option(help=f"For --greedy: {DATA}")] = None,
    data_option: Annotated[list[str], typer.Option(help=DATA_OPTION)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help=BATCH_SIZE)] = 32,
    force: Annotated[bool, typer.Option("--force", help=FORCE)] = False,
):
    """Averages the weights of models that were fine-tuned from the same weights.

    The result costs no more than one model, and is often more accurate than each. --greedy starts with the most accurate model, and adds
    each of the others if the validation accuracy does not fall. The data are those of the first run, or --data.
    """
    check_new_file(output, force, ".keras")
    if not greedy and (data or data_option):
        raise ValueError(f"`--data{'' if data else '-option'}` needs `--greedy`: a uniform soup reads no images")
    if len(models) < 2:
        raise ValueError(f"A soup needs two or more models. Received: {', '.join(models)}")
    with quiet():
        from keras_vit.files import replacing
        from keras_vit.training import soup as soups
    rows = []
    if greedy:
        source = data_of(models[0], data)
        loaded, _ = open_data(models[0], open_model(models[0]), source, data_option)
        result, rows = soups.greedy(models, soups.accuracy_on(loaded, batch_size))
        shown = [(models[row["number"]], f"{row['score']:.4f}", f"{row['soup']:.4f}", "yes" if row["kept"] else "no") for row in rows]
        table(("Model", "Accuracy", "Soup with it", "Kept"), shown)
        print()
    else:
        result = soups.average(models)
    with replacing(output) as temporary:
        result.save(temporary)
    count = sum(row["kept"] for row in rows) if greedy else len(models)
    print(f"{output}: the average of {count} of {len(models)} models")
