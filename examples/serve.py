"""Serves an exported model over HTTP: images that arrive together are computed together (dynamic batching, by LitServe).

    keras-vit export runs/digits exported --format onnx
    python examples/serve.py exported --port 8000
    curl -F image=@photo.jpg http://127.0.0.1:8000/predict

It answers {"classes": [{"name": ..., "score": ...}, ...]}, the best first. Ctrl-C or SIGTERM ends it after the requests that it has taken.
It needs `pip install litserve python-multipart` and what `predict_exported.py` in the exported folder needs.
"""

import argparse
import importlib.util
import os
import pathlib
import signal

import litserve
import numpy as np
from fastapi import HTTPException
from PIL import Image

MOST_PIXELS = 50_000_000  # of an image


class Classifier(litserve.LitAPI):
    """Batches images for the functions of `predict_exported.py`."""

    def __init__(self, folder, top, **options):
        super().__init__(**options)
        self.folder, self.top = pathlib.Path(folder), top

    def setup(self, device):
        specification = importlib.util.spec_from_file_location("predict_exported", self.folder / "predict_exported.py")
        self.exported = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(self.exported)
        self.run, self.about = self.exported.load(self.folder)

    def decode_request(self, request):
        try:
            with Image.open(request["image"].file) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise HTTPException(413, f"An image may have {MOST_PIXELS:,} pixels. Received: {image.width} x {image.height}")
                return self.exported.prepare(image, self.about)
        except (KeyError, AttributeError, OSError, SyntaxError, ValueError) as error:
            raise HTTPException(400, "The form field `image` must hold an image file") from error

    def batch(self, images):
        return np.stack(images)

    def predict(self, images):
        return self.run(images) if images.ndim == 4 else self.run(images[None])[0]  # without batching LitServe passes one image

    def unbatch(self, outputs):
        return list(outputs)

    def encode_response(self, scores):
        names = self.about["class_names"] or [str(number) for number in range(len(scores))]
        best = np.argsort(-scores, kind="stable")[: self.top]
        return {"classes": [{"name": names[i], "score": float(scores[i])} for i in best]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder that keras-vit export made")
    parser.add_argument("--host", choices=("127.0.0.1", "0.0.0.0", "::"), default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=16, help="images that are computed at once, at most")
    parser.add_argument("--wait", type=float, default=0.005, help="seconds that an image waits for others")
    parser.add_argument("--top", type=int, default=5, help="classes in an answer")
    arguments = parser.parse_args()
    options = dict(max_batch_size=arguments.batch_size, batch_timeout=arguments.wait) if arguments.batch_size > 1 else {}
    server = litserve.LitServer(Classifier(arguments.folder, arguments.top, **options), accelerator="cpu")
    main_process = os.getpid()

    def end(*_):
        raise KeyboardInterrupt if os.getpid() == main_process else SystemExit(0)

    signal.signal(signal.SIGTERM, end)  # LitServe's own processes, which inherit this, end without a traceback
    server.run(host=arguments.host, port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
