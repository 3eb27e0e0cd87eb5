"""Keras's optimizers with weight decay on kernels only, layer-wise learning rates, and exact gradient clipping.

Each accepts the arguments of the Keras class of the same name, and `layer_decay`. They work in `compile` and are saved with a model.
"""

import math
import re
from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.runtime import fast_paths, updates_on_torch
from keras_vit.runtime.devices import in_replica

FIRST_LAYERS = (
    "stem",
    "patch_embedding",
    "class_token",
    "position_embedding",
    "rotary_position_embedding",
    "register_tokens",
    "embedding_norm",
)
HEADS = {"head", "distillation_head"}


class _Optimizer:
    """Common base of the optimizers below.

    - `weight_decay` is decoupled, multiplied by the learning rate, and applied to kernels only: not to biases, norms, layer scales,
      positions and tokens.
    - `layer_decay` multiplies a layer's learning rate by `layer_decay ** depth`. The depth of the layers after the blocks is 0, that of
      the last block 1, that of the first block `num_layers`, and that of the layers before the blocks `num_layers + 1`. It does not change
      the gradients that `global_clipnorm` clips.
    - Under `tf.distribute`, the gradients are summed over the replicas before they are clipped. Keras clips those of each replica.
    """

    def __init__(self, *args, layer_decay=None, **kwargs):
        if layer_decay is not None and not 0.0 < layer_decay <= 1.0:
            raise ValueError(f"`layer_decay` must lie in (0, 1]. Received: layer_decay={layer_decay}")
        super().__init__(*args, **kwargs)
        self.layer_decay = layer_decay

    def build(self, variables):
        super().build(variables)
        self._rate_factors = learning_rate_factors([v.path for v in variables], self.layer_decay)
        self._is_kernel = tuple(v.path.split("/")[-1] == "kernel" for v in variables)
        # Here, because it makes an optimizer, which breaks the graph of `torch.compile`.
        own = type(self).update_step is not _Optimizer.update_step
        self._at_once = None if own else updates_on_torch.update_all(type(self).__bases__[-1])

    def apply(self, grads, trainable_variables=None):
        super().apply(_sum_over_replicas(grads), trainable_variables)

    # After the sum, all replicas compute the same update, each on its own copy of the variables. Keras leaves and reenters the replica
    # context for each update, which TensorFlow does not allow within a `tf.cond`. Moving averages and gradient accumulation need one.

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if update_all := self._update_all():
            indices = [self._get_variable_index(v) for v in trainable_variables]
            factors = [self._rate_factors[index] for index in indices]
            decays = [(self.weight_decay or 0.0) * self._is_kernel[index] for index in indices]
            return updates_on_torch.update(update_all, self, grads, trainable_variables, learning_rate, factors, decays)
        if not in_replica():
            return super()._backend_update_step(grads, trainable_variables, learning_rate)
        for gradient, variable in zip(grads, trainable_variables):
            self.update_step(gradient, variable, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        if not in_replica():
            return super()._backend_increment_gradient_accumulators(grads, acc_grads)
        for gradient, total in zip(grads, acc_grads):
            total.assign_add(gradient)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        if not in_replica():
            return super()._overwrite_model_variables_with_average_value(trainable_variables)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average):
            variable.assign(average)

    def _update_all(self):
        """Returns Keras's update of all variables at once, on torch, where ours is that of a Keras class with another decay; else None."""
        return self._at_once if fast_paths() else None

    def _clip_gradients(self, grads):
        if self._update_all() and self.global_clipnorm and not self.clipnorm:
            return updates_on_torch.clip_by_global_norm(grads, self.global_clipnorm)
        return super()._clip_gradients(grads)

    def _apply_weight_decay(self, variables):
        pass  # `update_step` applies it, with the layer's learning rate

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype) * self._rate_factors[index]
        if self.weight_decay and self._is_kernel[index]:
            self._decay(variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def _decay(self, variable, learning_rate):
        self.assign_sub(variable, variable * (learning_rate * self.weight_decay))

    def get_config(self):
        return {**super().get_config(), "layer_decay": self.layer_decay}


@keras.saving.register_keras_serializable(package="keras_vit")
class AdamW(_Optimizer, keras.optimizers.AdamW):
    """AdamW with weight decay on kernels only, and layer-wise learning-rate decay.

    Args:
        *args: positional arguments of `keras.optimizers.AdamW`.
        layer_decay: float in (0, 1] or None. Factor of the learning rate for each block below the head, see `learning_rate_factors`. None
            means the same learning rate for all layers. Defaults to None.
        **kwargs: keyword arguments of `keras.optimizers.AdamW`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019; layer-wise decay as in He et al., "Masked Autoencoders Are
        Scalable Vision Learners", 2021 (util/lr_decay.py).

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> model.compile(keras_vit.training.AdamW(1e-3, weight_decay=0.05, layer_decay=0.75), "sparse_categorical_crossentropy")
    """


@keras.saving.register_keras_serializable(package="keras_vit")
class SGD(_Optimizer, keras.optimizers.SGD):
    """SGD with momentum, weight decay on kernels only, and layer-wise learning-rate decay.

    Args:
        *args: positional arguments of `keras.optimizers.SGD`.
        layer_decay: float in (0, 1] or None. As in `keras_vit.training.AdamW`. Defaults to None.
        **kwargs: keyword arguments of `keras.optimizers.SGD`.

    Raises:
        ValueError: if an argument is out of range.
    """


@keras.saving.register_keras_serializable(package="keras_vit")
class Lamb(_Optimizer, keras.optimizers.Lamb):
    """LAMB as DeiT-III uses it.

    Weight decay is part of the update that the trust ratio scales, and variables without weight decay have no trust ratio.
    `keras.optimizers.Lamb` applies the decay outside the trust ratio, and scales the updates of biases and norms, too.

    Args:
        *args: positional arguments of `keras.optimizers.Lamb`.
        layer_decay: float in (0, 1] or None. As in `keras_vit.training.AdamW`. Defaults to None.
        **kwargs: keyword arguments of `keras.optimizers.Lamb`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        You et al., "Large Batch Optimization for Deep Learning", 2020, algorithm 2.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index, dtype = self._get_variable_index(variable), variable.dtype
        gradient, step = ops.cast(gradient, dtype), ops.cast(self.iterations + 1, dtype)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * (1.0 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1.0 - self.beta_2))
        unbiased = [
            moment / (1.0 - ops.power(ops.cast(beta, dtype), step)) for moment, beta in ((mean, self.beta_1), (square, self.beta_2))
        ]
        update = unbiased[0] / (ops.sqrt(unbiased[1]) + self.epsilon)
        ratio = 1.0
        if self.weight_decay and self._is_kernel[index]:
            update = update + variable * self.weight_decay
            weight_norm, update_norm = (ops.sqrt(ops.sum(ops.square(x))) for x in (variable, update))
            both = ops.logical_and(weight_norm > 0.0, update_norm > 0.0)
            ratio = ops.where(both, weight_norm / ops.where(both, update_norm, 1.0), 1.0)
        learning_rate = ops.cast(learning_rate, dtype) * self._rate_factors[index]
        self.assign_sub(variable, update * (learning_rate * ratio))


@keras.saving.register_keras_serializable(package="keras_vit")
class Muon(_Optimizer, keras.optimizers.AdamW):
    """Muon: updates kernels by their orthogonalized momentum, and all other variables and the head by AdamW.

    The kernel of a convolution counts as a matrix with one column for each output channel. The updates have the same norm as AdamW's, so
    that AdamW's learning rates and weight decays can be used. `keras.optimizers.Muon` updates convolutions by AdamW, and in earlier
    versions of Keras its updates have another norm.

    Args:
        *args: positional arguments of `keras.optimizers.AdamW`.
        momentum: float in [0, 1). Momentum of the kernels. Defaults to 0.95.
        layer_decay: float in (0, 1] or None. As in `keras_vit.training.AdamW`. Defaults to None.
        **kwargs: keyword arguments of `keras.optimizers.AdamW`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the norm of the updates: Liu et al., "Muon is
        Scalable for LLM Training", 2025, section 2.2.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> model.compile(keras_vit.training.Muon(1e-3, weight_decay=0.05), "sparse_categorical_crossentropy")
    """

    def __init__(self, *args: Any, momentum: float = 0.95, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.momentum = checks.rate("momentum", momentum)

    def build(self, variables: list) -> None:
        super().build(variables)
        self._is_hidden = tuple(is_kernel and HEADS.isdisjoint(v.path.split("/")) for v, is_kernel in zip(variables, self._is_kernel))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        if not self._is_hidden[index]:
            super().update_step(gradient, variable, learning_rate)
            return
        gradient, moment = ops.cast(gradient, variable.dtype), self._momentums[index]
        self.assign_add(moment, gradient - (1.0 - self.momentum) * moment)
        update = orthogonal(gradient + self.momentum * moment)
        if self.weight_decay:
            update = update + variable * self.weight_decay
        self.assign_sub(variable, update * (ops.cast(learning_rate, variable.dtype) * self._rate_factors[index]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}


def orthogonal(kernel: Any) -> Any:
    """Returns an approximately orthogonal matrix close to a kernel. Its root mean square is 0.2, that of AdamW's updates."""
    columns = kernel.shape[-1]
    rows = math.prod(kernel.shape[:-1])
    matrix = ops.reshape(kernel, (rows, columns))
    matrix = ops.transpose(matrix) if rows > columns else matrix
    matrix = matrix / (ops.norm(matrix) + 1e-7)
    for _ in range(5):  # Newton-Schulz with the quintic of Jordan et al. brings the singular values between 0.7 and 1.2
        square = ops.matmul(matrix, ops.transpose(matrix))
        matrix = 3.4445 * matrix + ops.matmul(2.0315 * ops.matmul(square, square) - 4.775 * square, matrix)
    matrix = ops.transpose(matrix) if rows > columns else matrix
    return ops.reshape(matrix * (0.2 * max(rows, columns) ** 0.5), kernel.shape)


def learning_rate_factors(paths: list[str], layer_decay: float | None) -> tuple[float, ...]:
    """Returns the factor of each variable's learning rate under layer-wise decay.

    Args:
        paths: sequence of str. The paths of all variables. The number of blocks follows from the highest block number in them.
        layer_decay: float in (0, 1] or None. Factor for each block below the head; None gives 1.0 for all variables.

    Returns:
        Tuple of floats, one for each path.

    Example:
    >>> learning_rate_factors(["patch_embedding/kernel", "block_0/norm1/gamma", "block_1/norm1/gamma", "head/kernel"], 0.5)
    (0.125, 0.25, 0.5, 1.0)
    """
    if layer_decay is None:
        return (1.0,) * len(paths)
    blocks = [re.search(r"(?:^|/)block_(\d+)/", path) for path in paths]
    blocks = [None if block is None else int(block[1]) for block in blocks]
    count = 1 + max((block for block in blocks if block is not None), default=-1)

    def depth(path, block):
        if block is not None:
            return count - block
        return count + 1 if any(part in FIRST_LAYERS for part in path.split("/")) else 0

    return tuple(layer_decay ** depth(path, block) for path, block in zip(paths, blocks))


def _sum_over_replicas(gradients):
    """Returns gradients summed over the replicas of `tf.distribute`; unchanged if there is only one replica."""
    if not in_replica():
        return gradients
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    given = [gradient for gradient in gradients if gradient is not None]
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, given))
    return [None if gradient is None else next(summed) for gradient in gradients]


OPTIMIZERS = {"AdamW": AdamW, "SGD": SGD, "Lamb": Lamb, "Muon": Muon}
