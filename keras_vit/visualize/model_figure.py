"""Draws a model's architecture, like figure 1 of the paper."""

from typing import Any, NamedTuple

import keras

from keras_vit.backbone import find_vision_transformer
from keras_vit.visualize.figures import axes_of

INK, FILL, TOKENS, PREFIX = "#222222", "#eef3f8", "#9ecae1", {"class": "#e6842a", "distillation": "#8c6bb1", "register": "#bdbdbd"}
WIDTH, GAP, HEIGHT, TOP = 2.4, 1.3, 1.5, 5.6  # width of a box, gap between boxes, height of a box, height of the figure
POOLINGS = {"token": "class token", "gap": "mean of patches", "token_gap": "class token,\nmean of patches", "map": "attention pooling"}
STEMS = {"resnet": "ResNet stem", "conv": "convolutional stem"}
UNIT = 0.7  # inches


class Stage(NamedTuple):
    """A box of the figure: its name, one or two lines of detail, and the shape of its output."""

    name: str
    detail: str
    shape: str


def model_figure(model: keras.Model, ax: Any = None) -> Any:
    """Draws a model's architecture: the stages of the model with their output shapes, and below them an encoder block.

    Save it as SVG, which needs no other program: `model_figure(model).figure.savefig("model.svg")`.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one. Stems and distillation tokens are drawn, too.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model contains no `VisionTransformer`.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, figure 1.

    Example:
    >>> ax = keras_vit.visualize.model_figure(keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128))
    """
    vit = find_vision_transformer(model)
    way, block = stages(vit), block_parts(vit.get_config())
    width = max(len(way) * (WIDTH + GAP) + GAP, len(block) * 1.75 + 3.0)
    given, ax = ax is not None, axes_of(ax, UNIT * width, UNIT * TOP)
    ax.set(xlim=(0, width), ylim=(0, TOP), aspect="equal")
    ax.axis("off")
    ax.text(GAP / 2, TOP - 0.3, f"{vit.name}: {vit.count_params():,} parameters", fontsize=13, color=INK, va="center")
    _draw_way(ax, vit, way)
    _draw_block(ax, block, vit.config.num_layers)
    if given:  # text has to fit into boxes that are smaller than in a figure of our own
        box = ax.get_window_extent()
        scale = min(box.width / width, box.height / TOP) / ax.figure.dpi / UNIT
        for text in ax.texts:
            text.set_fontsize(text.get_fontsize() * min(1.0, scale))
    return ax


def stages(vit: keras.Model) -> list:
    """Returns the stages of a model in order. The first is the image."""
    config = vit.get_config()
    rows, columns = (side or name for side, name in zip(vit.grid_size, ("rows", "cols")))
    width, prefix = config["hidden_dim"], vit.num_prefix_tokens
    patches = "patches" if None in vit.grid_size else rows * columns
    tokens = (prefix + patches if prefix else patches) if isinstance(patches, int) else f"{prefix} + patches" if prefix else patches
    found = [Stage("image", "raw pixels, 0 to 255" if config["include_preprocessing"] else "normalized", _shape(config["input_shape"]))]
    if config["stem"]:
        found.append(
            Stage(STEMS[config["stem"]["kind"]], f"stride {vit.get_layer('stem').stride}", _shape(vit.get_layer("stem").output.shape[1:]))
        )
    down, across = vit.get_layer("patch_embedding").patch_size
    found.append(Stage("patch embedding", f"{down} × {across} patches,\nprojected to {width}", _shape((rows, columns, width))))
    kind = config["position_embedding"]
    none = "positions in each block" if config["rotary"] else "no positions"
    positions = {"none": none, "learned": "+ learned positions"}.get(kind, "+ positions of sines")
    order = ["norm", positions] if config["norm_embeddings"] == "patches" else [positions, *["norm"] * config["norm_embeddings"]]
    found.append(Stage("tokens", "\n".join(order), _shape((tokens, width))))
    found.append(Stage("encoder", f"{config['num_layers']} blocks", _shape((tokens, width))))
    if config["pooling"] is None:
        return [*found, *([Stage("norm", "", _shape((tokens, width)))] if config["final_norm"] else [])]
    pooling = POOLINGS[config["pooling"]]
    if config["distillation_token"]:
        pooling = "class and\ndistillation token" if config["include_top"] else "mean of class and\ndistillation token"
    lines = [pooling, "then norm"] if config["norm_after_pooling"] else ["norm, then", pooling]
    lines = lines if config["final_norm"] else [pooling]
    pooled = width * (2 if config["pooling"] == "token_gap" else 1)
    two = config["distillation_token"] and config["include_top"]
    found.append(Stage("pooling", "\n".join(lines), f"2 × {pooled}" if two else f"{pooled}"))
    if config["representation_size"]:
        found.append(
            Stage(
                "pre-logits",
                f"dense, {config['representation_activation']}" if config["representation_activation"] else "dense",
                f"{config['representation_size']}",
            )
        )
    if config["include_top"]:
        detail = "two dense layers,\nmean of their logits" if two else "dense layer"
        activation = config["classifier_activation"]
        end = f"{detail}\n{activation}" if isinstance(activation, str) and activation != "linear" else detail
        found.append(Stage("heads" if two else "head", end, f"{config['num_classes']:,} classes"))
    return found


def block_parts(config: Any) -> list[str]:
    """Returns the names of the operations of an encoder block, in order. "+" is the sum of a residual connection."""
    head_dim = config["hidden_dim"] // config["num_heads"]
    attention = f"attention\n{config['num_heads']} heads of {head_dim}" + ("\nnormalized q, k" if config["qk_norm"] else "")
    attention += "\nrotary positions" if config["rotary"] else ""
    attention += "\nnormalized output" if config["attention_norm"] else ""
    mlp = f"{'SwiGLU' if config['mlp'] == 'swiglu' else 'MLP'}\n{config['hidden_dim']} → {config['mlp_dim']} → {config['hidden_dim']}"
    mlp += "\nnormalized hidden layer" if config["mlp_norm"] else ""
    scale = ["layer\nscale"] if config["layer_scale_init"] is not None else []
    norm = ["RMS\nnorm" if config["norm"] == "rms" else "norm"]
    order = lambda branch: (  # noqa: E731
        [norm, [branch], scale, ["+"]]
        if config["norm_first"]
        else [[branch], norm, scale, ["+"]]
        if config["norm_branches"]
        else [[branch], scale, ["+"], norm]
    )
    branches = [order(attention), order(mlp)]
    return [part for branch in branches for parts in branch for part in parts]


def _shape(sides):
    return " × ".join("any" if side is None else str(side) for side in sides)


def _box(ax, x, y, width, height, text, detail="", fill=FILL):
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", facecolor=fill, edgecolor=INK, linewidth=1.1)
    )
    middle = y + height / 2
    ax.text(
        x + width / 2,
        middle + (0.08 + 0.13 * (detail.count("\n") + 1) if detail else 0),
        text,
        ha="center",
        va="center",
        fontsize=11,
        color=INK,
    )
    if detail:
        ax.text(x + width / 2, middle - 0.2, detail, ha="center", va="center", fontsize=8.5, color=INK, linespacing=1.15)


def _arrow(ax, start, end, **more):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0, **more})


def _draw_way(ax, vit, way):
    bottom = 3.25
    for i, stage in enumerate(way):
        x = GAP / 2 + i * (WIDTH + GAP)
        middle = bottom + HEIGHT / 2
        if stage.name == "image":
            _draw_image(ax, x + (WIDTH - HEIGHT) / 2, bottom, vit.grid_size)
            ax.text(x + WIDTH / 2, bottom - 0.18, f"{stage.name}, {stage.detail}", ha="center", va="top", fontsize=8.5, color=INK)
        elif stage.name == "tokens":
            _box(ax, x, bottom, WIDTH, HEIGHT, "", fill="white")
            _draw_tokens(ax, x, bottom + 0.75, vit)
            ax.text(x + WIDTH / 2, bottom + 0.36, stage.detail, ha="center", va="center", fontsize=8.5, color=INK)
        else:
            for behind in (0.16, 0.08) if stage.name == "encoder" else ():
                _box(ax, x + behind, bottom + behind, WIDTH, HEIGHT, "")
            _box(ax, x, bottom, WIDTH, HEIGHT, stage.name, stage.detail)
        end = x + WIDTH + GAP
        _arrow(
            ax, (x + WIDTH + (0.2 if stage.name == "encoder" else 0.04), middle), (end - 0.04 if i + 1 < len(way) else end - 0.3, middle)
        )
        first, *rest = stage.shape.rsplit(" × ", 1) if len(stage.shape) > 10 else (stage.shape,)
        ax.text(
            x + WIDTH + GAP / 2 + 0.04, middle + 0.1, "\n× ".join([first, *rest]), ha="center", va="bottom", fontsize=8.5, color="#1f6fb4"
        )


def _draw_image(ax, x, y, grid):
    from matplotlib.patches import Rectangle

    rows, columns = (min(side or 4, 6) for side in grid)
    for row in range(rows):
        for column in range(columns):
            place = (x + column * HEIGHT / columns, y + row * HEIGHT / rows)
            ax.add_patch(Rectangle(place, HEIGHT / columns, HEIGHT / rows, facecolor=TOKENS, edgecolor="white", linewidth=1.4))


def _draw_tokens(ax, x, y, vit):
    from matplotlib.patches import Rectangle

    config, side = vit.get_config(), 0.21
    row = ["class"] * config["class_token"] + ["distillation"] * config["distillation_token"]
    row += ["register"] * min(config["num_register_tokens"], 2)
    row += ["patch"] * (8 - len(row))
    left = x + (WIDTH - len(row) * (side + 0.05)) / 2
    for i, kind in enumerate(row):
        color = PREFIX.get(kind, TOKENS)
        ax.add_patch(Rectangle((left + i * (side + 0.05), y), side, 0.34, facecolor=color, edgecolor=INK, linewidth=0.7))
    prefix = [kind for kind in PREFIX if kind in row]
    names = [f"{config['num_register_tokens']} registers" if kind == "register" else kind for kind in prefix]
    label = f"{', '.join(names)}, patches" if names else "patches"
    ax.text(x + WIDTH / 2, y + 0.5, label, ha="center", va="center", fontsize=8.5 if len(label) < 30 else 7.5, color=INK)


def _draw_block(ax, parts, count):
    bottom, height, x = 0.25, 1.2, GAP / 2 + 2.3
    middle, left, sum_last = bottom + height / 2, GAP / 2, parts[-1] == "+"
    ax.text(left, middle, f"encoder block\n× {count}", va="center", fontsize=11, color=INK)
    entered = x
    _arrow(ax, (x - 0.45, middle), (x, middle))
    for part in parts:
        if part == "+":
            ax.text(x + 0.17, middle, "+", ha="center", va="center", fontsize=13, color=INK, zorder=3,
                    bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": INK})  # fmt: skip
            top = bottom + height + 0.35
            ax.plot([entered - 0.22, entered - 0.22, x + 0.17], [middle, top, top], color=INK, linewidth=1.1)
            _arrow(ax, (x + 0.17, top), (x + 0.17, middle + 0.2))
            x += 0.34
            entered = x + 0.45 if sum_last else None
        else:
            width = 0.8 if part in ("norm", "layer\nscale") else 2.0
            name, _, detail = part.partition("\n") if part != "layer\nscale" else (part, "", "")
            _box(ax, x, bottom, width, height, name, detail)
            x += width
            if not sum_last and part == "norm":
                entered = x + 0.45
        _arrow(ax, (x + 0.02, middle), (x + 0.45, middle))
        x += 0.45
