"""The update of all variables by a few kernels of torch. Keras's loop starts about a dozen kernels for each variable."""

import collections
import math

import keras

LARGEST = 2**23  # values that are updated at once: Keras's AdamW makes three temporary arrays of their size


def update_all(optimizer_class):
    """Returns Keras's method `(optimizer, gradients, variables, learning_rate)` that updates all variables at once, or None.

    On torch Keras has one for several of its optimizers, but not for subclasses of them. Elsewhere the step is compiled as a whole.

    Args:
        optimizer_class: class of Keras, such as `keras.optimizers.AdamW`.
    """
    return getattr(type(optimizer_class()), "_parallel_update_step", None) if keras.backend.backend() == "torch" else None


def update(method, optimizer, gradients, variables, learning_rate, factors, decays):
    """Decays and updates variables, those of one learning rate and type together.

    At most `LARGEST` values are updated at once. With all of ViT-B at once, the temporary arrays would take a gigabyte.

    Args:
        method: the result of `update_all`.
        optimizer: the optimizer.
        gradients, variables: lists of the same length.
        learning_rate: scalar tensor.
        factors: list of floats, by which the learning rate of each variable is multiplied.
        decays: list of floats. Weight decay of each variable, multiplied by its learning rate.
    """
    import torch

    groups = collections.defaultdict(list)
    for index, (variable, factor) in enumerate(zip(variables, factors)):
        groups[variable.dtype, factor].append(index)
    with torch.no_grad():
        for (_, factor), indices in groups.items():
            rate = learning_rate * factor if factor != 1.0 else learning_rate
            for group in _parts(indices, variables):
                for decay in {decays[index] for index in group} - {0.0}:
                    torch._foreach_mul_([variables[index].value for index in group if decays[index] == decay], 1.0 - rate * decay)
                method(optimizer, [gradients[index] for index in group], [variables[index] for index in group], rate)


def _parts(indices, variables):
    """Yields lists of indices whose variables have at most `LARGEST` values together, or are a single variable."""
    part, size = [], 0
    for index in indices:
        values = math.prod(variables[index].shape)
        if part and size + values > LARGEST:
            yield part
            part, size = [], 0
        part.append(index)
        size += values
    yield part


def clip_by_global_norm(gradients, most):
    """Returns gradients scaled so that their global norm is at most `most`, as Keras does. A norm that is not finite gives NaN."""
    import torch

    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        scale = most * torch.clamp(1.0 / norm, max=1.0 / most) + (norm - norm)
        return list(torch._foreach_mul(gradients, scale))
