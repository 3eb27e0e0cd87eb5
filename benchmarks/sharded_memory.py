"""Compares the memory of a training step per device by the cost model with XLA's analysis of the compiled step.

python benchmarks/sharded_memory.py --models ViTH14 --devices 8 --strategies fsdp tensor_parallel

Nothing is allocated: the step is lowered for shapes only, and compiled for virtual CPUs. XLA fuses less there than on a GPU.
"""

import argparse
import os
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import keras
from jax.sharding import PartitionSpec

import keras_vit
from keras_vit.training import AdamW, strategy, virtual_devices
from keras_vit.training.devices.memory import device_bytes

GIB = 2**30


def analyze(name, distribution, batch_size, **overrides):
    """Returns XLA's analysis of a step of AdamW."""
    with distribution.scope():
        optimizer = AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0)
    with distribution.scope(), keras.StatelessScope(initialize_variables=False):
        model = getattr(keras_vit, name)(num_classes=1000, **overrides)
        optimizer.build(model.trainable_variables)
        mesh = distribution.device_mesh.backend_mesh

        def shape_of(variable):
            layout = distribution.get_variable_layout(variable) or getattr(variable, "_layout", None)
            sharding = layout.backend_layout if layout is not None else jax.sharding.NamedSharding(mesh, PartitionSpec())
            return jax.ShapeDtypeStruct(tuple(variable.shape), variable.dtype, sharding=sharding)

        trainable, fixed = map(shape_of, model.trainable_variables), map(shape_of, model.non_trainable_variables)
        trainable, fixed = list(trainable), list(fixed)
        whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
        likeness = {tuple(struct.shape): struct.sharding for struct in trainable}  # a moment is sharded as its weight
        state = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype, sharding=likeness.get(tuple(v.shape), whole)) for v in optimizer.variables]
        batch = jax.sharding.NamedSharding(mesh, PartitionSpec("batch"))
        images = jax.ShapeDtypeStruct((batch_size, *model.input_shape[1:]), "float32", sharding=batch)
        labels = jax.ShapeDtypeStruct((batch_size, 1000), "float32", sharding=batch)

        def loss(trainable, fixed, images, labels):
            predictions, fixed = model.stateless_call(trainable, fixed, images, training=True)
            return keras.ops.mean(keras.losses.categorical_crossentropy(labels, predictions)), fixed

        def step(trainable, fixed, state, images, labels):
            (value, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, fixed, images, labels)
            trainable, state = optimizer.stateless_apply(state, gradients, trainable)
            return value, trainable, fixed, state

        lowered = jax.jit(step, donate_argnums=(0, 1, 2)).lower(trainable, fixed, state, images, labels)
        return lowered.compile().memory_analysis()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViTH14", "ViTg14", "ViTG14"])
    parser.add_argument("--strategies", nargs="+", default=["fsdp", "tensor_parallel"])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="batch size on all devices together")
    parser.add_argument("--layers", type=int, help="number of blocks (default: the model's); fewer compile faster")
    parser.add_argument("--remat", action="store_true")
    options = parser.parse_args()
    virtual_devices(f"cpu:{options.devices}")
    print("| model | strategy | weights, optimizer: formula | XLA | the rest: formula | XLA |\n| --- | --- | --- | --- | --- | --- |")
    overrides = {"num_layers": options.layers} if options.layers else {}
    overrides |= {"remat": True} if options.remat else {}
    for name in options.models:
        for kind in options.strategies:
            start = time.time()
            arguments = {**keras_vit.presets.preset(name), "num_classes": 1000, **overrides}
            state, gradients, activations = device_bytes(arguments, options.batch, options.devices, kind)
            found = analyze(name, strategy(kind), options.batch, **overrides)
            formula, rest = (f"{value / GIB:.2f} GiB" for value in (state, gradients + activations))
            ours = [f"{value / GIB:.2f} GiB" for value in (found.argument_size_in_bytes, found.temp_size_in_bytes)]
            print(f"| {name} | {kind} | {formula} | {ours[0]} | {rest} | {ours[1]} |  <!-- {time.time() - start:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
