"""A web page that shows a model: predicted classes, what the model looked at, the most similar images, and the figures of the paper."""

import io
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.checkpoints.imagenet import best
from keras_vit.data.preprocessing import evaluation_transform, open_image, printable, read_image
from keras_vit.extras import install
from keras_vit.features.embedding import embed
from keras_vit.features.files import Features, fingerprint
from keras_vit.features.search import images_of, similar
from keras_vit.layers import checks
from keras_vit.messages import say
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.visualize import attention_distance, attention_maps, model_figure, patch_filters, position_similarity
from keras_vit.visualize.explanation import METHODS, cell_of, explain
from keras_vit.visualize.figures import pixels_of
from keras_vit.visualize.overlay import blend

MOST_BYTES = 20 * 2**20  # largest size of a request
MOST_PIXELS = 50_000_000
MOST_ASPECT = 20  # a longer image would take gigabytes when its short side is enlarged
SHOWN = 448  # smallest side of a picture that can be clicked, in pixels
TOP, NEIGHBORS = 5, 6
HINT = "Click a patch to see what it attends to."


def read_upload(path: Any) -> Any:
    """Returns an uploaded image as a Pillow image. Its size is checked before it is decoded.

    Raises:
        ValueError: if the file is not an image, is damaged, too large or too narrow. The message does not name the file.
    """
    try:
        with open_image(path) as file:
            width, height = file.size
    except Exception:  # a decoder may raise anything on a damaged file
        raise ValueError("This file is not an image that can be read. Choose a JPEG, PNG or WebP file.") from None
    if width * height > MOST_PIXELS:
        raise ValueError(f"This image is too large: {width} x {height} pixels. The most is {MOST_PIXELS // 10**6} megapixels.")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise ValueError(f"This image is too narrow: {width} x {height} pixels. A side may be {MOST_ASPECT} times the other at most.")
    try:
        return read_image(path)
    except ValueError:
        raise ValueError("This image is damaged. Choose another file.") from None


class Show:
    """The model behind the page, and the computations that the page needs.

    Args:
        model: `VisionTransformer`.
        class_names: sequence of str or None. Class names for a model without names. Defaults to None.
        index: `keras_vit.features.Features` or None. Features of the images that are searched for similar ones. Defaults to None.
        data: str or None. Path of the images of the index, if they have been moved. Defaults to None.

    Raises:
        ValueError: if the index was computed with other weights.
    """

    def __init__(self, model: VisionTransformer, class_names: Any = None, index: Features | None = None, data: str | None = None):
        if index is not None and fingerprint(model) != index.settings["weights_crc32"]:
            raise ValueError("The features must be computed with the weights of `model`. Received: features of a model with other weights")
        self.model, self.index, self.data = model, index, data
        self.has_head = model.config.include_top
        self.transform = evaluation_transform(model)
        names = model.class_names or class_names or [f"class {i}" for i in range(model.config.num_classes)]
        # The page shows one row per name, so that names must be distinct.
        self.names = [name if names.index(name) == i else f"{name} ({i})" for i, name in enumerate(names)] if self.has_head else []
        self.methods = [name for name, row in METHODS.items() if name != "pca" and (self.has_head or "target" not in row.takes)]

    def input(self, path: str) -> np.ndarray:
        """Returns an uploaded image as input of the model, with a batch axis."""
        return self.transform(read_upload(path))[None]

    def classes(self, images: np.ndarray) -> dict[str, float]:
        """Returns the probabilities of the most likely classes."""
        scores = self.model(images, training=False)
        logits = self.model.config.classifier_activation in (None, "linear", keras.activations.linear)
        row = ops.convert_to_numpy(ops.cast(ops.softmax(scores) if logits else scores, "float32"))[0]
        return {self.names[i]: float(row[i]) for i in best(row, TOP)}

    def seen(self, images: np.ndarray, method: str) -> np.ndarray:
        """Returns the picture of what the model looked at."""
        return self.picture(images, explain(self.model, images, method)[0])

    def attended(self, images: np.ndarray, row: int, column: int) -> np.ndarray:
        """Returns a picture of what a patch attends to in the last block. The patch has a white frame."""
        map = attention_maps(self.model, images, blocks=-1, query=(row, column))[0, 0].mean(axis=0)
        picture = self.picture(images, 100.0 * map)
        top, left = (round(side * i / n) for side, i, n in zip(picture.shape, (row, column), map.shape))
        bottom, right = (round(side * (i + 1) / n) for side, i, n in zip(picture.shape, (row, column), map.shape))
        frame = np.zeros(picture.shape[:2], bool)
        frame[top:bottom, left:right] = True
        frame[top + 3 : bottom - 3, left + 3 : right - 3] = False
        picture[frame] = 255
        return picture

    def picture(self, images: np.ndarray, map: np.ndarray) -> np.ndarray:
        pixels = pixels_of(self.model, images)
        drawn, _ = blend(pixels[0], map, cell=cell_of(self.model))
        times = max(1, -(-SHOWN // min(drawn.shape[:2])))
        return np.repeat(np.repeat((255 * drawn.clip(0, 1)).astype("uint8"), times, axis=0), times, axis=1)

    def patch_at(self, images: np.ndarray, x: float, y: float) -> tuple[int, int]:
        """Returns the patch (row, column) at a place (x, y) of a picture, with coordinates from 0 to 1."""
        rows, columns = self.grid(images)
        return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)

    def grid(self, images: np.ndarray) -> Any:
        return self.model.config.replace(input_shape=images.shape[1:]).grid_size

    def nearest(self, images: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """Returns the nearest images of the index, each with its class and similarity."""
        if self.index is None:
            return []
        query = embed(self.model, images, self.index.settings["pooling"], verbose=False)[0]
        found = similar(self.index, query, min(NEIGHBORS, len(self.index.features)))
        pictures = images_of(self.index, [row["row"] for row in found], self.data)
        return [
            (np.asarray(image, "uint8"), f"{row.get('label') or printable(row['name'])}, {row['similarity']:.2f}")
            for image, row in zip(pictures, found)
        ]

    def figures(self, images: np.ndarray | None) -> list[tuple[Any, str]]:
        """Returns the figures of the paper with their captions. One of them needs an image."""
        drawn = [(model_figure(self.model), "Architecture"), (patch_filters(self.model), "Filters of the patch embedding")]
        if self.model.config.position_embedding != "none":
            drawn.append((position_similarity(self.model), "Similarity of positions"))
        if images is not None:
            drawn.append((attention_distance(self.model, images), "How far heads look, in the uploaded image"))
        return [(_image(axes.figure), caption) for axes, caption in drawn]


def build(show: Show, title: str) -> Any:
    """Returns the page, a `gradio.Blocks`.

    Args:
        show: `Show`.
        title: str. Heading of the page.

    Raises:
        ImportError: if gradio is not installed.
    """
    gr = _gradio()

    def look(upload, method):
        # Without gradio's preprocessing: it has checked that the path is that of an upload, but has not opened the file.
        if not upload:
            return None, {}, None, [], HINT
        try:
            checks.one_of("method", method, show.methods)
            images = show.input(upload["path"])
        except ValueError as error:  # an exception would show an error in every box
            gr.Warning(str(error))
            return None, {}, None, [], str(error)
        return images, show.classes(images) if show.has_head else {}, show.seen(images, method), show.nearest(images), HINT

    def look_again(images, method):
        return (None if images is None else show.seen(images, method)), HINT

    def click(images, event: gr.SelectData):  # pyright: ignore[reportInvalidTypeForm]
        if images is None:
            return None, HINT
        height, width = show.picture(images, np.ones(show.grid(images), "float32")).shape[:2]
        row, column = show.patch_at(images, event.index[0] / width, event.index[1] / height)
        return show.attended(images, row, column), f"What the patch in row {row + 1}, column {column + 1} attends to, in the last block."

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {title}")
        images = gr.State()
        with gr.Tab("An image"):
            with gr.Row():
                with gr.Column(min_width=280):
                    upload = gr.Image(sources=["upload", "webcam", "clipboard"], label="Image", elem_id="upload", height=320)
                    classes = gr.Label(label="Classes", num_top_classes=TOP, visible=show.has_head, elem_id="classes")
                with gr.Column(min_width=280):
                    overlay = gr.Image(label="What the model looked at", interactive=False, elem_id="overlay", buttons=["fullscreen"])
                    hint = gr.Markdown(HINT, elem_id="hint")
                    method = gr.Radio(show.methods, value=show.methods[-2] if show.has_head else show.methods[0], label="Method")
            nearest = gr.Gallery(label="Nearest images", visible=show.index is not None, columns=3, height="auto", elem_id="nearest")
        with gr.Tab("The model") as tab:
            gr.Markdown(
                f"{show.model.count_params():,} parameters, {show.model.config.num_layers} blocks of width {show.model.config.hidden_dim}."
            )
            figures = gr.Gallery(label="Figures of the paper", columns=2, height=1000, elem_id="figures", object_fit="contain")
        one = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        upload.change(look, [upload, method], [images, classes, overlay, nearest, hint], preprocess=False, **one)
        method.change(look_again, [images, method], [overlay, hint], **one)
        overlay.select(click, [images], [overlay, hint], **one)
        tab.select(show.figures, [images], [figures], **one)
    return page


def serve(show: Show, title: str, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> Any:
    """Serves the page until Ctrl-C.

    Nothing leaves the machine: the page has no telemetry, and no fonts or scripts of other servers. Requests may have at most 20 MB.
    Uploaded files are deleted after an hour, and when the server stops.

    Args:
        show: `Show`.
        title: str. Heading of the page.
        host: str. Address to listen on; "0.0.0.0" means all networks. Defaults to "127.0.0.1", only this machine.
        port: int or None. Port. Defaults to None, the first free one from 7860.
        block: bool. Whether to return only when the server stops. Defaults to True.

    Returns:
        The page, a `gradio.Blocks`, with `local_url`.
    """
    gr = _gradio()
    from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]

    page = build(show, title).queue(max_size=16)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # the default loads Google's fonts
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        max_file_size=MOST_BYTES,
        allowed_paths=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        theme=theme,
        app_kwargs={"middleware": [Middleware(LimitedBody)]},
        prevent_thread_lock=True,
    )
    if block:
        page.block_thread()
    return page


class LimitedBody:
    """ASGI middleware that rejects requests of more than `MOST_BYTES` before they are read, and answers 400 where gradio fails."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BYTES + 2**16:
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
            return await send({"type": "http.response.body", "body": b""})
        received = 0

        async def limited():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # If its header has no length, a request that is too long ends as if the client had disconnected.
            return message if received <= MOST_BYTES + 2**16 else {"type": "http.disconnect"}

        begun = False

        async def noticed(message):
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, limited, noticed)
        except Exception as error:  # gradio may raise anything on a request that its page never sends; the server would log a traceback
            say(f"A request failed: {scope['method']} {ascii(scope['path'])[1:-1][:80]} ({type(error).__name__})")
            if not begun:
                await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})


def _image(figure):
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer)


def _gradio():
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(f"The page needs gradio: {install('app')}") from None
    return gradio
