"""What `fuzz.py` damages and calls: for each target a strategy that makes a case, and a function that puts it into a file and opens it."""

import contextlib
import io
import json
import logging
import pathlib
import shutil
import socket
import struct
import tarfile
import urllib.request
import zipfile

import numpy as np
from fuzz_cases import PICKLES, archive, damaged, edited, image_cases, images, json_bytes, toml_bytes
from hypothesis import strategies as st

import keras_vit
from keras_vit import app, checkpoints, training
from keras_vit.data import evaluation_transform
from keras_vit.data.sources.folder import folder as open_folder
from keras_vit.data.sources.tars import tars
from keras_vit.features import read_features

SMALL = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=32, num_classes=5)


def members_of(path):
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def saved(folder):
    """Returns the paths of small models in the formats of folders."""
    paths = [folder / name for name in ("timm", "huggingface", "registers")]
    registers = dict(num_register_tokens=1, layer_scale_init=0.1)
    for path, changes in zip(paths, ({}, {}, registers)):
        checkpoints.save(keras_vit.VisionTransformer(**{**SMALL, **changes}), path, "timm" if path.name == "timm" else "huggingface")
    return paths


def split_safetensors(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file_call(path, call, write=pathlib.Path.write_bytes):
    def each(case):
        write(path, case)
        return call(path)

    return each


def open_all(path):
    """Reads all of a checkpoint, without building its model."""
    with checkpoints.open_checkpoint(path, {"num_heads": 2}) as checkpoint:
        for row in checkpoint.rows():
            if all(key in checkpoint.names for key in row.keys):
                with contextlib.suppress(ValueError):  # shapes that do not fit: `from_pretrained` lists them
                    checkpoint.shapes(row)
                    checkpoint.read(row)


def safetensors_cases(folder):
    paths = saved(folder)
    files = [path / "model.safetensors" for path in paths]
    parts = [split_safetensors(file) for file in files]
    data = max((part[1] for part in parts), key=len)
    pack = lambda header: struct.pack("<Q", len(header)) + header + data  # noqa: E731
    heads = edited([header for header, _ in parts]).map(json_bytes)
    return st.one_of(damaged([file.read_bytes() for file in files]), heads.map(pack), damaged([json_bytes(h) for h, _ in parts]).map(pack))


def safetensors(folder):
    (folder / "alone").mkdir()
    return safetensors_cases(folder), file_call(folder / "alone" / "case.safetensors", open_all)


def npz(folder):
    checkpoints.save(keras_vit.VisionTransformer(**SMALL, activation="gelu_tanh"), folder / "google.npz", "google")
    members = members_of(folder / "google.npz")
    return st.one_of(archive([members]), damaged([(folder / "google.npz").read_bytes()])), file_call(folder / "case.npz", open_all)


def pth(folder):
    import torch

    paths = saved(folder)
    originals = []
    for path in paths:
        with checkpoints.formats.files.open_tensors(path) as tensors:
            state = {key: torch.from_numpy(np.array(tensors[key])) for key in tensors}
        torch.save({"model": state, "epoch": np.float64(1), "args": None}, folder / "whole.pth")
        originals.append(folder / "whole.pth")
    members, whole = members_of(originals[0]), originals[0].read_bytes()
    return st.one_of(archive([members], PICKLES), damaged([whole], PICKLES)), file_call(folder / "case.pth", open_all)


def checkpoint(folder):
    (folder / "alone").mkdir()
    call = lambda path: keras_vit.from_pretrained(path, num_heads=2)  # noqa: E731
    return safetensors_cases(folder / "alone"), file_call(folder / "case.safetensors", call)


def config_json(folder):
    paths = saved(folder)
    files = [file for path in paths for file in path.glob("*.json")]
    index = {"metadata": {}, "weight_map": {key: "model.safetensors" for key in split_safetensors(paths[0] / "model.safetensors")[0]}}
    index["weight_map"].pop("__metadata__", None)
    trees = {(file.parent, file.name): json.loads(file.read_text()) for file in files} | {(paths[0], "model.safetensors.index.json"): index}
    keep = {(where, name): json_bytes(tree) for (where, name), tree in trees.items()}

    def case_of(place):
        return st.tuples(st.just(place), st.one_of(edited([trees[place]]).map(json_bytes), damaged([keep[place]])))

    def call(case):
        (where, name), content = case
        (where / name).write_bytes(content)
        try:
            open_all(where / name if name.endswith("index.json") else where)
        finally:
            (where / name).unlink() if name.endswith("index.json") else (where / name).write_bytes(keep[where, name])

    return st.sampled_from(list(trees)).flatmap(case_of), call


def h5(folder):
    small = {**SMALL, "num_layers": 1}
    keras_vit.ViTMicro4(weights=None, **small).save_weights(folder / "whole.weights.h5")
    call = lambda path: keras_vit.ViTMicro4(weights=str(path), **small)  # noqa: E731
    return damaged([(folder / "whole.weights.h5").read_bytes()]), file_call(folder / "case.weights.h5", call)


def keras_file(folder):
    keras_vit.VisionTransformer(**{**SMALL, "num_layers": 1}).save(folder / "whole.keras")
    members = members_of(folder / "whole.keras")
    inner = {"config.json": edited([json.loads(members["config.json"])]).map(json_bytes)}
    return archive([members], inner=inner), file_call(folder / "case.keras", keras_vit.from_pretrained)


def toml(folder):
    training.Run(data="digits", epochs=2, learning_rate=1e-3, architecture=dict(num_layers=1), class_names=None, output=folder / "run")
    run = training.Run(data="digits", epochs=2, learning_rate=1e-3, architecture=dict(num_layers=1), data_options=dict(test_fraction=0.3))
    trees = [run.config, {"data": "digits", "model": "ViTMicro4", "recipe": "small_data", "class_names": ["a", "b"]}]
    (folder / "run").mkdir(exist_ok=True)

    def call(path):
        training.Run(config=path)
        training.Run.open(path.parent)

    return st.one_of(edited(trees).map(toml_bytes), damaged(list(map(toml_bytes, trees)))), file_call(folder / "run" / "config.toml", call)


def features(folder):
    settings = {"pooling": None, "weights_crc32": 1}
    arrays = dict(features=np.ones((4, 3), "float32"), labels=np.arange(4), splits=np.array(["test"] * 4), indices=np.arange(4))
    np.savez(folder / "whole.npz", **arrays, class_names=np.array(["a", "b"]), settings=np.array(json.dumps(settings)))
    whole = (folder / "whole.npz").read_bytes()
    return st.one_of(archive([members_of(folder / "whole.npz")]), damaged([whole])), file_call(folder / "case.npz", read_features)


def image(folder):
    transform = evaluation_transform(keras_vit.VisionTransformer(**SMALL))

    def call(case):
        suffix, content = case
        path = folder / f"case.{suffix}"
        path.write_bytes(content)
        try:
            app.read_upload(str(path))
        except ValueError as error:
            assert str(folder) not in str(error), "the page names a file of the server"
        transform(path)

    return image_cases(), call


def folder_of_images(folder):
    whole = images()["a.png"]

    def call(case):
        shutil.rmtree(folder / "data", ignore_errors=True)
        for place in ("a/0.png", "a/1.png", "a/2.png", "a/3.png", "b/0.png", "b/1.png", "b/2.png", "b/3.png"):
            (folder / "data" / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / place).write_bytes(whole)
        suffix, content = case
        (folder / "data" / "a" / f"case.{suffix}").write_bytes(content)
        open_folder(folder / "data", validation_fraction=0.2, test_fraction=0.2)  # decodes each file once

    return image_cases(), call


def tar(folder):
    file, whole = io.BytesIO(), images()["a.png"]
    with tarfile.open(fileobj=file, mode="w") as made:
        for number in range(6):
            for suffix, content in (("png", whole), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    (folder / "tars").mkdir()
    call = lambda path: tars(path.parent, validation_fraction=0.2, test_fraction=0.2)  # noqa: E731
    return damaged([file.getvalue()]), file_call(folder / "tars" / "train-000.tar", call)


def command(folder):
    from keras_vit_cli import main

    keras_vit.VisionTransformer(**SMALL).save(folder / "tiny.keras")
    (folder / "whole.png").write_bytes(images()["a.png"])
    weights = members_of(folder / "tiny.keras")

    def call(case):
        kind, (suffix, content) = case
        path = folder / f"case.{suffix}"
        path.write_bytes(content)
        errors = io.StringIO()
        given = [path, "--model", folder / "tiny.keras"] if kind == "image" else [folder / "whole.png", "--model", path]
        with contextlib.redirect_stderr(errors):
            try:
                main(["predict", *map(str, given)])
            except SystemExit as ended:
                lines = [line for line in errors.getvalue().splitlines() if line.startswith("keras-vit:")]
                assert ended.code in (0, None, 2), f"it ended with {ended.code}"
                assert not ended.code or len(lines) == 1, f"{len(lines)} lines"
                assert "Traceback" not in errors.getvalue(), "a traceback"

    models = st.tuples(st.just("model"), st.tuples(st.just("keras"), archive([weights])))
    return st.one_of(st.tuples(st.just("image"), image_cases()), models), call


def http(folder):
    """The page's server, asked by raw bytes on loopback."""
    page = app.serve(app.Show(keras_vit.VisionTransformer(**SMALL)), "A page", block=False)
    host, port = page.local_url.removeprefix("http://").rstrip("/").split(":")
    errors = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: errors.append(repr(record.exc_info[1])) if record.exc_info else None
    logging.getLogger("uvicorn.error").addHandler(handler)

    def request(method, path, body=b"", kind="application/json"):
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("utf-8", "replace") + body

    job = {"data": [{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}, "rollout"], "fn_index": 0, "session_hash": "a"}
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n%b\r\n--x--\r\n'
    upload = lambda case: request("POST", "/gradio_api/upload", form % case[1], "multipart/form-data; boundary=x")  # noqa: E731
    join = lambda tree: request("POST", "/gradio_api/queue/join", json_bytes(tree))  # noqa: E731
    paths = (
        "/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/assets/../../x",
        "/theme.css", "/gradio_api/queue/data?session_hash=a", "/gradio_api/upload_progress?upload_id=a",
        "/gradio_api/proxy=http://127.0.0.1:1/", "/%00",
    )  # fmt: skip
    whole = [upload((None, images()["a.png"])), join(job), *(request("GET", path) for path in paths)]

    def call(sent):
        answer = b""
        with socket.create_connection((host, int(port)), timeout=5) as connection, contextlib.suppress(TimeoutError, ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while (piece := connection.recv(1 << 16)) and len(answer) < 1 << 20:
                answer += piece
        assert not errors, f"the server logs {errors.pop()}"
        assert b"root:x:" not in answer, "a file of the server"
        with urllib.request.urlopen(page.local_url + "theme.css", timeout=5) as alive:
            assert alive.status == 200

    return st.one_of(damaged(whole), image_cases().map(upload), edited([job]).map(join)), call


TARGETS = {
    "safetensors": safetensors, "npz": npz, "pth": pth, "checkpoint": checkpoint, "json": config_json, "h5": h5, "keras": keras_file,
    "toml": toml, "features": features, "tar": tar, "image": image, "folder": folder_of_images, "command": command,
    "http": http,
}  # fmt: skip
