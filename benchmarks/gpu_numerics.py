"""Compares the layers in half precision with float32 on a GPU, forward and backward. Prints a table, and exits with 0 or 1.

    KERAS_BACKEND=jax python benchmarks/gpu_numerics.py               # or torch; a minute or two
    KERAS_BACKEND=jax python benchmarks/gpu_numerics.py "block|gelu"  # only cases that match a regular expression

An error is the norm of the difference over the norm of the float32 result, which is computed on the same GPU without TF32. Both use the
same inputs and weights, rounded to half precision. The head widths are those of all presets; 196 and 197 tokens are an even and an odd
number, and a single query is the case of the last block.
"""

import os
import re
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import ml_dtypes
import numpy as np

import keras_vit
from keras_vit import layers, presets
from keras_vit.runtime.gpu import on_gpu

LIMITS = {"bfloat16": (2e-2, 4e-2), "float16": (3e-3, 6e-3)}  # for outputs and gradients; rounding is at most 2e-3 and 2.4e-4
JAX = keras.backend.backend() == "jax"


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


def cases():
    """Yields (name, function that makes a layer with a dtype, shapes of its inputs, options of the call)."""
    for width in head_widths():
        for tokens, options in ((196, {}), (197, {}), (197, {"num_queries": 1})):
            queries = ", one query" if options else ""
            shape = (2, tokens, 4 * width)
            yield (
                f"attention, heads of {width}, {tokens} tokens{queries}",
                lambda d: layers.MultiHeadSelfAttention(4, dtype=d),
                [shape],
                options,
            )
    yield "attention with qk_norm", lambda d: layers.MultiHeadSelfAttention(4, qk_norm=True, dtype=d), [(2, 197, 256)], {}
    yield "patch embedding", lambda d: layers.PatchEmbedding(256, 16, dtype=d), [(2, 224, 224, 3)], {}
    yield "patch embedding, rectangular", lambda d: layers.PatchEmbedding(256, (16, 8), dtype=d), [(2, 64, 48, 4)], {}
    yield "normalization", lambda d: layers.LayerNormalization(dtype=d), [(8, 197, 768)], {}
    for name in ("gelu", "gelu_tanh", "quick_gelu"):
        yield name, lambda d, name=name: keras.layers.Activation(layers.activations.get(name), dtype=d), [(8, 197, 768)], {}
    yield "block", lambda d: layers.TransformerEncoderBlock(4, 1024, dtype=d), [(2, 197, 256)], {}
    yield "block, one query", lambda d: layers.TransformerEncoderBlock(4, 1024, dtype=d), [(2, 197, 256)], {"num_queries": 1}
    yield "block, SwiGLU", lambda d: layers.TransformerEncoderBlock(4, 1024, mlp="swiglu", dtype=d), [(2, 197, 256)], {}
    yield "block, remat", lambda d: layers.TransformerEncoderBlock(4, 1024, remat=True, dtype=d), [(2, 197, 256)], {"training": True}


def main(only=""):
    if not on_gpu(keras.ops.zeros(())):
        print("There is no GPU: this compares precisions on the CPU.", file=sys.stderr)
    print(f"keras_vit {keras_vit.__version__}, {keras.backend.backend()}\n")
    print("| | dtype | output | gradients | |", "| --- " * 5 + "|", sep="\n")
    failed = 0
    for name, make, shapes, options in cases():
        for dtype, limits in LIMITS.items():
            if re.search(only, name) and (dtype == "bfloat16" or "196" not in name):
                output, gradients = compare(make, shapes, dtype, **options)
                passed = output <= limits[0] and gradients <= limits[1]  # not for NaN
                failed += not passed
                print(f"| {name} | {dtype} | {output:.1e} | {gradients:.1e} | {'pass' if passed else 'FAIL'} |", flush=True)
    print(f"\n{f'{failed} failed' if failed else 'All passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
