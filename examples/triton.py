"""Lays out an exported model as a model repository of Triton Inference Server, with dynamic batching.

    keras-vit export runs/digits exported --format onnx
    python examples/triton.py exported repository --name digits
    docker run --rm -p 8000:8000 -v $PWD/repository:/models nvcr.io/nvidia/tritonserver:25.09-py3 tritonserver --model-repository=/models

The format is onnx, openvino or saved_model, exported with a dynamic batch.
"""

import argparse
import json
import pathlib
import shutil

BACKENDS = {  # of Triton: its name, the path of the model in the repository
    "onnx": ("onnxruntime", "model.onnx"),
    "openvino": ("openvino", "model.xml"),
    "saved_model": ("tensorflow", "model.savedmodel"),
}
CONFIG = """\
name: "{name}"
{kind}: "{backend}"
max_batch_size: {batch}
input [{{ name: "{input}", data_type: TYPE_FP32, dims: {shape} }}]
output [{{ name: "{output}", data_type: TYPE_FP32, dims: {classes} }}]
dynamic_batching {{ max_queue_delay_microseconds: {wait} }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="folder that keras-vit export made")
    parser.add_argument("repository", type=pathlib.Path)
    parser.add_argument("--name", default="classifier", help="name of the model in Triton")
    parser.add_argument("--batch-size", type=int, default=32, help="images that are computed at once, at most")
    parser.add_argument("--wait", type=int, default=5000, help="microseconds that an image waits for others")
    arguments = parser.parse_args()
    about = json.loads((arguments.folder / "model.json").read_text("utf-8"))
    if about["format"] not in BACKENDS or about["input"]["shape"][0] is not None:
        parser.error(f"Triton takes {', '.join(BACKENDS)}, exported with a dynamic batch. Received: {about['format']}, {about['input']}")
    backend, file = BACKENDS[about["format"]]
    version = arguments.repository / arguments.name / "1"
    version.mkdir(parents=True)
    if about["format"] == "saved_model":
        shutil.copytree(arguments.folder / about["file"], version / file)
    else:
        for path in arguments.folder.glob("model.*"):
            if path.suffix != ".json":
                shutil.copy(path, version / path.name)
    config = CONFIG.format(
        name=arguments.name,
        kind="platform" if backend == "tensorflow" else "backend",
        backend="tensorflow_savedmodel" if backend == "tensorflow" else backend,
        batch=arguments.batch_size,
        input=about["input"]["name"],
        shape=[-1 if side is None else side for side in about["input"]["shape"][1:]],
        output=about["output"]["name"],
        classes=[-1 if side is None else side for side in about["output"]["shape"][1:]],
        wait=arguments.wait,
    )
    (version.parent / "config.pbtxt").write_text(config)
    names = about["class_names"]
    if names:
        (version.parent / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    print(version.parent)


if __name__ == "__main__":
    main()
