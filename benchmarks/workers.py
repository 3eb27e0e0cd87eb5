"""Runs a measurement of throughput.py, scaling.py or check.py in a process: `python benchmarks/workers.py ROW` (JSON).

A step takes images as a tensor of the framework (a NumPy array for predict, onnxruntime and openvino) and ends with the result in host
memory. The process writes a line of JSON after the first step, and one after the warm-up. Then it reads numbers of steps, and for each
number writes a line with the time of these steps and the peak memory since the warm-up.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

MODELS = {  # keras_vit's name, timm's name, hidden_dim, num_layers, num_heads, mlp_dim, pixels of the image that a token stands for
    "Ti/16": ("ViTTi16", "vit_tiny_patch16_224", 192, 12, 3, 768, 16),
    "S/16": ("ViTS16", "vit_small_patch16_224", 384, 12, 6, 1536, 16),
    "B/16": ("ViTB16", "vit_base_patch16_224", 768, 12, 12, 3072, 16),
    "L/16": ("ViTL16", "vit_large_patch16_224", 1024, 24, 16, 4096, 16),
    "R50+B/16": ("R50ViTB16", "vit_base_r50_s16_224", 768, 12, 12, 3072, 16),
    "R26+S/32": ("R26ViTS32", "vit_small_r26_s32_224", 384, 12, 6, 1536, 32),
}
CLASSES = 1000
BACKENDS = {"TF": "tensorflow", "JAX": "jax", "torch": "torch", "OpenVINO": "openvino"}


class Row(NamedTuple):
    """A configuration to measure.

    `form` is "full" for keras_vit without its shortcut in the last block (the head reads the mean of all tokens), "shortcut" for a floor
    with this shortcut, "remat" for keras_vit with recomputed activations, and "at once" for keras_vit without the GPU's attention kernel.
    "keras first" is keras_vit imported after Keras and TensorFlow, which on processors without AVX-512 then do without oneDNN. "huge pages"
    has glibc ask for huge pages.
    """

    who: str
    runtime: str  # its first word is the framework
    kind: str  # "inference" or "train"
    model: str
    size: int
    batch: int
    dtype: str  # "float32", "bfloat16", or "mixed_bfloat16": float32 weights, autocast in torch
    form: str = ""
    patch_size: int | None = None  # None: the model's
    num_layers: int | None = None

    @property
    def changes(self):
        return {name: value for name in ("patch_size", "num_layers") if (value := getattr(self, name)) is not None}

    @property
    def venv(self):
        return "keras" if self.who.startswith("keras") or self.runtime == "TF" else "torch"


def data(row):
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (row.batch, row.size, row.size, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, row.batch)


def keras_vit_model(row, **more):
    import keras_vit

    if row.form == "at once":
        keras_vit.runtime.fused_attention.exists = lambda query, key: False
    plain = dict(num_classes=CLASSES, include_preprocessing=False, classifier_activation=None)
    function = getattr(keras_vit, MODELS[row.model][0])
    form = {"full": {"pooling": "gap"}, "remat": {"remat": True}}.get(row.form, {})
    return function(input_shape=(row.size, row.size, 3), dtype=row.dtype, **{**plain, **form, **row.changes, **more})


def keras_vit(row):
    return keras_step(keras_vit_model(row), row)


def keras_hub_model(row):
    import keras_hub

    _, _, width, layers, heads, mlp_dim, patch = MODELS[row.model]
    sizes = dict(patch_size=patch, num_layers=layers, num_heads=heads, hidden_dim=width, mlp_dim=mlp_dim)
    backbone = keras_hub.models.ViTBackbone(image_shape=(row.size, row.size, 3), dtype=row.dtype, **sizes)
    return keras_hub.models.ViTImageClassifier(backbone, CLASSES, activation=None, dtype=row.dtype)


def keras_hub(row):
    return keras_step(keras_hub_model(row), row)


def keras_step(model, row):
    import keras

    images, labels = data(row)
    if row.runtime == "OpenVINO":  # accepts only arrays
        return lambda: model.predict_on_batch(images)
    x = keras.ops.convert_to_tensor(images)
    xla = row.runtime in ("TF XLA", "JAX")
    if row.kind == "train":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), loss, jit_compile=xla)
        y = keras.ops.convert_to_tensor(labels)
        return lambda: model.train_on_batch(x, y)
    if "predict" in row.runtime:
        model.compile(jit_compile="XLA" in row.runtime)
        if row.runtime.endswith("predict_on_batch"):
            return lambda: model.predict_on_batch(x)
        return lambda: model.predict(images, batch_size=row.batch, verbose=0)
    if row.runtime == "JAX":
        import jax

        variables = [[v.value for v in some] for some in (model.trainable_variables, model.non_trainable_variables)]
        forward = jax.jit(lambda *arguments: model.stateless_call(*arguments, training=False)[0])
        return lambda: np.asarray(forward(*variables, x))
    if row.runtime.startswith("torch"):
        return torch_forward(lambda x: model(x, training=False), x)
    if row.runtime == "TF call":
        return lambda: model(x).numpy()
    import tensorflow as tf

    forward = tf.function(lambda x: model(x, training=False), jit_compile=xla)
    return lambda: forward(x).numpy()


def timm_model(row):
    from torchvision_stub import TorchvisionStub

    sys.meta_path.append(TorchvisionStub())
    import timm

    renamed = {"num_layers": "depth"}
    changes = {renamed.get(name, name): value for name, value in row.changes.items()}
    return timm.create_model(MODELS[row.model][1], img_size=row.size, num_classes=CLASSES, **changes)


def timm(row):
    return torch_step(timm_model(row), row)


def transformers(row):
    import transformers

    _, _, width, layers, heads, mlp_dim, patch = MODELS[row.model]
    sizes = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=mlp_dim, patch_size=patch)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=row.size, num_labels=CLASSES, **sizes))
    return torch_step(model, row, lambda output: output.logits)


def torch_step(model, row, logits=lambda output: output):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (torch.from_numpy(array).to(device) for array in data(row))
    dtype = torch.bfloat16 if row.dtype == "bfloat16" else torch.float32
    model, x = model.to(device, dtype), images.permute(0, 3, 1, 2).to(dtype).contiguous()
    network = torch.compile(model) if row.runtime == "torch compile" else model

    def mixed():
        return torch.autocast(device, torch.bfloat16) if row.dtype == "mixed_bfloat16" else contextlib.nullcontext()

    def forward(x):
        with mixed():
            return logits(network(x))

    if row.kind == "inference":
        model.eval()
        return torch_forward(forward, x)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=True)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_forward(forward, x):
    import torch

    def step():
        with torch.inference_mode():
            return forward(x).float().cpu().numpy()

    return step


def onnx_file(row):
    """Returns the path of the ONNX file that onnxruntime and openvino run."""
    return os.path.join(tempfile.gettempdir(), "keras_vit_onnx", f"{row.model.replace('/', '_')}_{row.size}_{row.batch}.onnx")


def export(row):
    import torch

    os.makedirs(os.path.dirname(onnx_file(row)), exist_ok=True)
    x = torch.from_numpy(data(row)[0]).permute(0, 3, 1, 2).contiguous()
    torch.onnx.export(timm_model(row).eval(), (x,), onnx_file(row), input_names=["images"], dynamo=True)


def onnxruntime(row):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file(row), providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(data(row)[0].transpose(0, 3, 1, 2))
    return lambda: session.run(None, {"images": images})[0]


def openvino(row):
    import openvino

    precision = "bf16" if row.dtype == "bfloat16" else "f32"
    model = openvino.compile_model(onnx_file(row), "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"})
    images = np.ascontiguousarray(data(row)[0].transpose(0, 3, 1, 2))
    return lambda: model({0: images})[0]


def products(row):
    """Returns (rows, inputs, outputs) of the dense products of the blocks, which make up the floor."""
    *_, d, layers, _, mlp, patch = MODELS[row.model]
    tokens, first = row.batch * ((row.size // patch) ** 2 + 1), row.batch
    block = [(tokens, d, 3 * d), (tokens, d, d), (tokens, d, mlp), (tokens, mlp, d)]
    # The last block's shortcut: keys and values of all tokens, everything else only for the class token.
    last = [(tokens, d, 2 * d), (first, d, d), (first, d, d), (first, d, mlp), (first, mlp, d)]
    return block * (layers - 1) + (last if row.form == "shortcut" else block)


def floor(row):
    generator, dtype = np.random.default_rng(0), "float32" if row.dtype == "float32" else "bfloat16"

    def array(*shape):
        return generator.standard_normal(shape, "float32") / shape[0] ** 0.5

    inputs = {shape[:2]: array(*shape[:2]) for shape in products(row)}
    gradients = {shape[::2]: array(*shape[::2]) for shape in products(row)} if row.kind == "train" else {}
    if row.runtime == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"

        def tensor(value):
            return torch.from_numpy(value).to(device, getattr(torch, dtype))
    else:
        import tensorflow as tf

        def tensor(value):
            return tf.constant(value, dtype)

    kernels = [tensor(array(*shape[1:])) for shape in products(row)]
    inputs, gradients = ({shape: tensor(value) for shape, value in some.items()} for some in (inputs, gradients))

    def run(matmul):
        for (rows, ins, outs), kernel in zip(products(row), kernels):
            yield matmul(inputs[rows, ins], kernel)
            if gradients:  # the products of the backward pass: the inputs' gradient and the kernel's
                yield matmul(gradients[rows, outs], kernel, second=True)
                yield matmul(inputs[rows, ins], gradients[rows, outs], first=True)

    if row.runtime == "torch":

        def product(a, b, first=False, second=False):
            return (a.T if first else a) @ (b.T if second else b)

        return torch_forward(lambda _: torch.stack([y[0, 0] for y in run(product)]), None)

    @tf.function
    def in_turn():
        read = []  # one value of each product, because TensorFlow skips products that are not used

        def product(a, b, first=False, second=False):
            with tf.control_dependencies(read[-1:]):
                return tf.matmul(a, b, transpose_a=first, transpose_b=second)

        for y in run(product):
            read.append(y[0, 0])
        return tf.stack(read)

    return lambda: in_turn().numpy()


def work(row):
    """Returns, for one image, the GFLOP of a forward pass by convention and as keras_vit computes it, and the MB that training keeps."""
    import keras_vit

    *_, d, _, _, mlp, patch = MODELS[row.model]
    n = (row.size // (row.patch_size or patch)) ** 2 + 1
    shape = (row.size, row.size, 3)
    _, macs, activations, *_ = keras_vit.cost(MODELS[row.model][0], input_shape=shape, num_classes=CLASSES, **row.changes)
    saved = (n - 1) * (2 * d * d + 2 * d * mlp + 2 * n * d)
    return 2e-9 * macs, 2e-9 * (macs - (0 if row.form == "full" else saved)), 1e-6 * activations


def memory(name):
    """Returns the memory of this process in MB, now (VmRSS) or at its peak (VmHWM). If torch or JAX use a GPU, it is the GPU's memory."""
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_available() and cuda.is_initialized():
        return (cuda.max_memory_allocated() if name == "VmHWM" else cuda.memory_allocated()) / 1e6
    if "jax" in sys.modules and (stats := sys.modules["jax"].local_devices()[0].memory_stats()):
        return stats["peak_bytes_in_use" if name == "VmHWM" else "bytes_in_use"] / 1e6
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024 / 1e6


def reset_peak():
    if os.access("/proc/self/clear_refs", os.W_OK):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def serve(row):
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries apart
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: this process ends with the one that started it

    def send(**message):
        print(json.dumps(message), file=pipe, flush=True)

    def timed():
        begun = time.perf_counter()
        step()
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.synchronize()
        return time.perf_counter() - begun

    step = {**globals(), "keras-hub": keras_hub}[row.who](row)
    built = memory("VmRSS")
    timed()
    send(first=True)
    seconds = min(timed() for _ in range(2))
    send(seconds=seconds, built=built, peak=memory("VmHWM"), work=work(row) if row.who == "keras_vit" else None)
    reset_peak()
    for line in sys.stdin:
        send(seconds=[timed() for _ in range(int(line))], peak=memory("VmHWM"))


if __name__ == "__main__":
    row = Row(*json.loads(sys.argv[1]))
    os.environ["KERAS_BACKEND"] = BACKENDS.get(row.runtime.split()[0], "tensorflow")
    export(row) if sys.argv[2:] == ["export"] else serve(row)
