"""`keras-vit explain`: pictures of what a model looks at."""

import enum
import html
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import check_new_folder, quiet
from keras_vit_cli.models import MODEL_SIZE, SOURCES, config_of, open_model

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.05rem; margin-top: 2rem }} img {{ max-width: 100%; height: auto; background: white }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


class Explanation(enum.StrEnum):
    ATTENTION = "attention"
    ROLLOUT = "rollout"
    RELEVANCE = "relevance"
    GRAD_CAM = "grad-cam"
    PCA = "pca"


def explain(
    model: Annotated[str, typer.Option(help=f"Preset, with --weights; or {SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Option(help="New or empty folder for the pictures.")],
    images: Annotated[list[str], typer.Argument(help="Image files.")] = None,
    weights: Annotated[str, typer.Option(help="Tag of the preset, or weights as for --model.")] = None,
    method: Annotated[
        Explanation,
        typer.Option(
            help="attention: of the class token, mean of the heads; rollout: attention through all blocks; relevance: what supports a "
            "class; grad-cam: the same by Grad-CAM; pca: which patches are similar."
        ),
    ] = Explanation.ATTENTION,
    block: Annotated[int, typer.Option(help="Block to explain, counted from 0, or from the end if negative. [default: the last]")] = None,
    class_name: Annotated[str, typer.Option("--class", help="Name or number of the class to explain. [default: the predicted]")] = None,
    image_size: Annotated[int, typer.Option(min=1, help=MODEL_SIZE)] = None,
    smooth: Annotated[bool, typer.Option("--smooth", help="Interpolate between patches.")] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Also draw the figures of the paper for these weights.")] = False,
):
    """Shows what a model looks at.

    Writes a picture for each image, and a page with all of them, index.html. Images are resized and cropped as in the evaluation of the
    weights.
    """
    images = images or []
    if not images and not figures:
        raise ValueError("There is nothing to draw: name image files, or give `--figures`")
    check_new_folder(output)
    with quiet():
        from keras_vit.data import read_image
        from keras_vit.visualize.explanation import METHODS
        from keras_vit.visualize.figures import axes_of

        axes_of(None)  # raises if matplotlib is not installed
    for option, name, value in (("--block", "block", block), ("--class", "target", class_name)):
        if value is not None and name not in METHODS[method].takes:
            taking = ", ".join(key for key, row in METHODS.items() if name in row.takes)
            raise ValueError(f"`{option}` needs the method {taking}. Received: {option} {value} with --method {method.value}")
    for image in images:
        read_image(image)  # a mistyped name should fail before the model is downloaded and loaded
    vit = open_model(model, weights, image_size)
    names = class_names_of(vit, weights or model)
    pages = {}
    if images:
        pages |= draw_images(vit, images, method.value, block, class_name, names, smooth, output)
    if figures:
        pages |= draw_figures(vit, images, output)
    write_index(output, f"{model}: {method.value}" if images else f"{model}: figures", pages)
    print(f"{len(pages)} pictures and index.html in {output}")


def class_names_of(model, source):
    """Returns the class names of a model, of its run or of ImageNet-1k; None without a head or known names."""
    from keras_vit.checkpoints.imagenet import imagenet_classes

    config = model.get_config()
    if not config["include_top"]:
        return None
    names = getattr(model, "class_names", None) or config_of(source).get("class_names")
    if not names and config["num_classes"] == len(imagenet_classes()):
        names = [label for _, label in imagenet_classes()]
    return list(names) if names else None


def class_number(model, name, names):
    """Returns the number of the class that the user named, or None."""
    from keras_vit.names import listed, nearest

    if name is None or not model.get_config()["include_top"]:
        return None
    count = model.get_config()["num_classes"]
    if names and name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < count:
        return int(name)
    few = bool(names) and len(names) <= 12  # all of a short list help more than the nearest, and numbers are not near by their digits
    if names and (few or not name.isdecimal()):
        known = f"Unknown class; there is {listed(names if few else nearest(name, names))}, or a number below {count}"
    else:
        known = f"`--class` must be {'the name of a class or ' if names else ''}a number below {count}"
    raise ValueError(f"{known}. Received: --class {name}")


def draw_images(model, paths, method, block, class_name, names, smooth, output):
    """Writes a picture for each image, and returns a dict from headings to file names."""
    import numpy as np
    from keras import ops

    from keras_vit.data import evaluation_transform
    from keras_vit.visualize.explanation import METHODS, draw_explanation
    from keras_vit.visualize.explanation import explain as maps_of

    transform = evaluation_transform(model)
    images = np.stack([transform(path) for path in paths])
    target = class_number(model, class_name, names)
    maps = maps_of(model, images, method, block, target)
    titles = [""] * len(paths)
    if model.get_config()["include_top"]:
        scores = np.concatenate([ops.convert_to_numpy(model(images[i : i + 8])) for i in range(0, len(images), 8)])
        if model.get_config()["classifier_activation"] in (None, "linear"):
            scores = ops.convert_to_numpy(ops.softmax(scores))
        label = (lambda i: names[i]) if names else (lambda i: f"class {i}")
        titles = [f"{label(best)}, {100 * row[best]:.0f} %" for row, best in zip(scores, scores.argmax(axis=-1))]
        if target is not None:
            titles = [f"{title}\nexplained: {label(target)}, {100 * row[target]:.0f} %" for title, row in zip(titles, scores)]
    files = {}
    for path, image, map, title in zip(paths, images, maps, titles):
        name = f"{pathlib.Path(path).stem}.png"
        for number in range(2, len(paths) + 2):
            if name not in files.values():
                break
            name = f"{pathlib.Path(path).stem}-{number}.png"
        save(draw_explanation(model, image, map, title, METHODS[method].label, smooth), output / name)
        files[path if path not in files else f"{path} ({name})"] = name
    return files


def draw_figures(model, paths, output):
    """Writes the figures of the paper, and returns a dict from headings to file names."""
    import numpy as np

    from keras_vit import visualize
    from keras_vit.data import evaluation_transform

    figures = {"Architecture": ("model.svg", lambda: visualize.model_figure(model))}
    figures |= {"Filters of the patch embedding": ("patch_filters.png", lambda: visualize.patch_filters(model))}
    if model.get_config()["position_embedding"] != "none":
        figures["Similarity of positions"] = ("position_similarity.png", lambda: visualize.position_similarity(model))
    if paths:
        images = np.stack([evaluation_transform(model)(path) for path in paths])
        figures["How far heads look"] = ("attention_distance.png", lambda: visualize.attention_distance(model, images))
    else:
        print("attention_distance.png is not drawn: it needs images")
    for name, draw in figures.values():
        save(draw().figure, output / name)
    return {heading: name for heading, (name, _) in figures.items()}


def save(figure, path):
    from keras_vit.files import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def write_index(output, title, pages):
    from keras_vit.files import replacing

    body = "\n".join(
        f'<h2>{html.escape(heading)}</h2>\n<img alt="{html.escape(heading)}" src="{html.escape(name)}">' for heading, name in pages.items()
    )
    with replacing(output / "index.html") as temporary:
        temporary.write_text(PAGE.format(title=html.escape(title), body=body), encoding="utf-8")
