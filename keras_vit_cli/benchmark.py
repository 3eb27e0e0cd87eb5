"""`keras-vit benchmark`: measures the speed and memory of presets on this machine."""

import csv
import enum
import json
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import parse_shape, quiet, table
from keras_vit_cli.info import Optimizer, Precision


class Format(enum.StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def benchmark(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Presets, see `keras-vit list`.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 8,
    input_shape: Annotated[str | None, typer.Option(help="rows,columns,channels, such as 384,384,3. Default: the preset's.")] = None,
    dtype: Annotated[Precision, typer.Option(help="Precision.")] = Precision.FLOAT32,
    training: Annotated[bool, typer.Option("--training", help="Measure training steps. Default: inference.")] = False,
    optimizer: Annotated[Optimizer, typer.Option(help="Of training.")] = Optimizer.ADAMW,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds of timed steps after the warm-up; at least ten steps.")] = 5.0,
    form: Annotated[Format, typer.Option("--format", help="Output format. csv has the columns of timm's tables.")] = Format.TABLE,
):
    """Measures the speed and memory of models.

    Measures images per second, latency of a step and peak memory, each model in its own process. --format csv has the columns of timm's
    benchmark tables, and `model` is timm's name where there is one, so that the tables can be joined. If a model fails, its error goes to
    stderr and the others are measured.
    """
    overrides = {} if input_shape is None else {"input_shape": parse_shape(input_shape)}
    with quiet():
        from keras_vit.config import ViTConfig
        from keras_vit.cost import cost
        from keras_vit.profiling import benchmark as measure
    for name in models:
        cost(ViTConfig.of(name, **overrides))  # a wrong name should fail before minutes of measuring
    rows = []
    for name in models:
        try:
            row = measure(name, batch_size, training, optimizer.value, dtype.value, seconds, **overrides)
        except RuntimeError as error:
            print(f"keras-vit: {name}: {error}", file=sys.stderr)
            continue
        if form is Format.CSV:
            writer = csv.DictWriter(sys.stdout, row, lineterminator="\n")
            if not rows:
                writer.writeheader()
            writer.writerow(row)
            sys.stdout.flush()
        rows.append(row)
    if form is Format.JSON:
        print(json.dumps(rows, indent=2))
    if form is Format.TABLE and rows:
        kind = "train" if training else "infer"
        print(f"{'Training' if training else 'Inference'}, batch {batch_size}, {dtype}, {rows[0]['backend']} on {rows[0]['device']}\n")
        shown = [
            (row["preset"], row[f"{kind}_img_size"], f"{row[f'{kind}_samples_per_sec']:.1f}", f"{row['latency_p50']:.1f}",
             f"{row['latency_p99']:.1f}", f"{row['peak_memory_mb']:,}")
            for row in rows
        ]  # fmt: skip
        table(("Model", "Image", "Images/s", "p50, ms", "p99, ms", "Peak memory, MB"), shown)
    if len(rows) < len(models):
        raise typer.Exit(1)
