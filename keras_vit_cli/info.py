"""`keras-vit info`: what a preset costs at a resolution, by part. Nothing is built."""

from typing import Annotated

import typer

from keras_vit_cli.console import parse_shape, quiet, table


def info(
    name: Annotated[str, typer.Argument(help="Preset, see `keras-vit list`.")],
    input_shape: Annotated[str | None, typer.Option(help="rows,columns,channels, such as 384,384,3. Default: the preset's.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the head. Default: the preset's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the activations are counted for.")] = 1,
):
    """Shows what a preset costs.

    Counts parameters, multiply-adds, tokens and activation memory by formula, without building the model.
    """
    overrides = {} if input_shape is None else {"input_shape": parse_shape(input_shape)}
    overrides |= {} if num_classes is None else {"num_classes": num_classes, "include_top": True}
    with quiet():
        from keras_vit.config import ViTConfig
        from keras_vit.cost import cost, cost_by_part
    config = ViTConfig.of(name, **overrides)
    rows, columns = config.grid_size
    total = cost(name, batch_size, **overrides)

    print(f"{name} at {' x '.join(map(str, config.input_shape))}\n")
    table(
        ("", ""),
        [
            ("Parameters", f"{total.parameters:,}"),
            ("Multiply-adds of an image", f"{total.macs / batch_size / 1e9:.2f} G"),
            ("Grid of patches", f"{rows} x {columns}"),
            ("Tokens", f"{config.num_tokens} ({config.num_patches} patches, {config.num_prefix_tokens} prefix)"),
            (f"Activations in training, batch {batch_size}", f"{total.activation_bytes / 2**20:,.1f} MiB"),
        ],
    )
    print()
    parts = cost_by_part(name, **overrides).items()
    table(("Part", "Parameters", "GMACs"), [(part, f"{price.parameters:,}", f"{price.macs / 1e9:.3f}") for part, price in parts])
