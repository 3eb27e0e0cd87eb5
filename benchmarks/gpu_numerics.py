"""Compares the layers in half precision with float32 on a GPU, forward and backward. Prints a table, and exits with 0 or 1.

    KERAS_BACKEND=jax python benchmarks/gpu_numerics.py                      # or torch; a minute or two
    KERAS_BACKEND=jax python benchmarks/gpu_numerics.py --only "block|gelu"  # only cases that match a regular expression
    KERAS_BACKEND=jax python benchmarks/gpu_numerics.py --tiny               # small inputs, to see that every case runs, also without a GPU

An error is the norm of the difference over the norm of the float32 result, which is computed on the same GPU without TF32. Both use the
same inputs and weights, rounded to half precision. The head widths are those of all presets; 196 and 197 tokens are an even and an odd
number, and a single query is the case of the last block.

Without a GPU, the forms that layers have for one run on the CPU. Only cuDNN's attention cannot: XLA computes it, between the same steps.
"""

import argparse
import os
import re
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import ml_dtypes
import numpy as np

import keras_vit
from keras_vit import layers, presets
from keras_vit.runtime import fused_attention, gpu, patches

LIMITS = {"bfloat16": (2e-2, 4e-2), "float16": (3e-3, 6e-3)}  # for outputs and gradients; rounding is at most 2e-3 and 2.4e-4
JAX = keras.backend.backend() == "jax"


def take_forms_of_gpu():
    """Has the layers take the forms that they have for GPUs, on the CPU."""
    gpu.on_gpu = patches.on_gpu = lambda x: True
    if not JAX:
        fused_attention.LONG = 1  # torch's own kernel for any number of tokens
        return
    import jax

    attend = jax.nn.dot_product_attention

    def attend_by_xla(*inputs, implementation, **options):
        wide = (x.astype("float32") for x in inputs)  # of float16, a CPU has no products that are summed in float32
        return attend(*wide, implementation="xla", **options).astype(inputs[0].dtype)

    jax.nn.dot_product_attention = attend_by_xla
    fused_attention.exists = lambda query, key, bias=None: bias is None and query.dtype != "float32"


def head_widths():
    sizes = ((preset.get("hidden_dim", 768), preset.get("num_heads", 12)) for preset in presets.PRESETS.values())
    return sorted({width // heads for width, heads in sizes})


def results(layer, inputs, options, upstream):
    """Returns the output, and the gradients of the inputs and the weights, as arrays of float32."""
    if JAX:
        import jax

        def forward(weights, inputs):
            return layer.stateless_call(weights, [v.value for v in layer.non_trainable_variables], *inputs, **options)[0]

        weights, inputs = [v.value for v in layer.trainable_variables], [jax.numpy.asarray(x, layer.compute_dtype) for x in inputs]

        @jax.jit
        def both(weights, inputs, upstream):
            output, backward = jax.vjp(forward, weights, inputs)
            return [output, *jax.tree.leaves(backward(upstream.astype(output.dtype)))]

        with jax.default_matmul_precision("highest"):
            found = both(weights, inputs, jax.numpy.asarray(upstream))
        return [np.asarray(x.astype("float32")) for x in found]
    import torch

    device = keras.ops.zeros(()).device
    weights = [v.value for v in layer.trainable_variables]
    inputs = [torch.tensor(x, device=device, dtype=getattr(torch, layer.compute_dtype), requires_grad=True) for x in inputs]
    output = layer(*inputs, **options)
    gradients = torch.autograd.grad(output, inputs + weights, torch.tensor(upstream, device=device, dtype=output.dtype))
    return [x.detach().float().cpu().numpy() for x in (output, *gradients)]


def compare(make, shapes, dtype, **options):
    """Returns the error of a layer's output, and the largest error of its gradients."""
    generator = np.random.default_rng(0)
    half, full = make(dtype), make("float32")
    inputs = [round_to(dtype, generator.standard_normal(shape)) for shape in shapes]
    for layer in (half, full):
        layer.build(*map(tuple, shapes))
    for mine, other in zip(half.weights, full.weights):
        value = keras.ops.convert_to_numpy(other)
        value = round_to(dtype, value + 0.05 * generator.standard_normal(value.shape))
        mine.assign(value)
        other.assign(value)
    outputs = full.compute_output_spec(*[keras.KerasTensor(shape) for shape in shapes], **options)
    upstream = round_to(dtype, generator.standard_normal(outputs.shape))
    found, wanted = (results(layer, inputs, options, upstream) for layer in (half, full))
    # Some gradients, such as that of the keys' bias, are zero except for rounding: their errors are relative to the others.
    least = np.sqrt(np.mean(np.concatenate([np.square(gradient).ravel() for gradient in wanted[1:]])))
    errors = [np.linalg.norm(a - b) / max(np.linalg.norm(b), least * b.size**0.5) for a, b in zip(found, wanted, strict=True)]
    return errors[0], max(errors[1:])


def round_to(dtype, values):
    return values.astype(getattr(ml_dtypes, dtype, dtype)).astype("float32")


def cases(tiny):
    """Yields (name, function that makes a layer with a dtype, shapes of its inputs, options of the call)."""
    even, heads, size, width = (16, 2, 32, 64) if tiny else (196, 4, 224, 256)
    wide = (2, even + 1, width) if tiny else (8, even + 1, 768)
    tokens = [(2, even + 1, width)]
    for head in head_widths():
        for count, options in ((even, {}), (even + 1, {}), (even + 1, {"num_queries": 1})):
            queries = ", one query" if options else ""
            name = f"attention, heads of {head}, {count} tokens{queries}"
            yield name, lambda d: layers.MultiHeadSelfAttention(heads, dtype=d), [(2, count, heads * head)], options
    yield "attention with qk_norm", lambda d: layers.MultiHeadSelfAttention(heads, qk_norm=True, dtype=d), tokens, {}
    yield "patch embedding", lambda d: layers.PatchEmbedding(width, 16, dtype=d), [(2, size, size, 3)], {}
    yield "patch embedding, rectangular", lambda d: layers.PatchEmbedding(width, (16, 8), dtype=d), [(2, 64, 48, 4)], {}
    yield "normalization", lambda d: layers.LayerNormalization(dtype=d), [wide], {}
    for name in ("gelu", "gelu_tanh", "quick_gelu"):
        yield name, lambda d, name=name: keras.layers.Activation(layers.activations.get(name), dtype=d), [wide], {}
    for name, more, options in (
        ("block", {}, {}),
        ("block, one query", {}, {"num_queries": 1}),
        ("block, SwiGLU", {"mlp": "swiglu"}, {}),
        ("block, remat", {"remat": True}, {"training": True}),
    ):
        yield name, lambda d, more=more: layers.TransformerEncoderBlock(heads, 4 * width, dtype=d, **more), tokens, options


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="only the cases that match")
    parser.add_argument("--tiny", action="store_true", help="small inputs")
    arguments = parser.parse_args()
    print(f"keras_vit {keras_vit.__version__}, {keras.backend.backend()}")
    if not gpu.on_gpu(keras.ops.zeros(())):
        take_forms_of_gpu()
        print("There is no GPU: its forms run on the CPU" + ", and XLA's attention in place of cuDNN's, which is skipped" * JAX)
    print("\n| | dtype | output | gradients | |", "| --- " * 5 + "|", sep="\n")
    passed = []
    for name, make, shapes, options in cases(arguments.tiny):
        for dtype, limits in LIMITS.items():
            even = "attention" in name and shapes[0][1] % 2 == 0
            if re.search(arguments.only, name) and (dtype == "bfloat16" or not even):
                output, gradients = compare(make, shapes, dtype, **options)
                passed.append(output <= limits[0] and gradients <= limits[1])  # not for NaN
                print(f"| {name} | {dtype} | {output:.1e} | {gradients:.1e} | {'pass' if passed[-1] else 'FAIL'} |", flush=True)
    if not passed:
        parser.error(f"no case matches --only {arguments.only!r}")
    print(f"\nAll {len(passed)} passed" if all(passed) else f"\n{passed.count(False)} of {len(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
