"""Writes `gradients.npz` beside a fixture: what the family's own code computes for a training step."""

import numpy as np
import torch

SAMPLES = 48


def write_gradients(folder, model, output, prefix=""):
    """Writes the cross-entropy of outputs with the labels 1 and 3, and about 48 evenly spaced numbers of each parameter's gradient.

    `prefix` is what stands before a parameter's name in the model and not in the file.
    """
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(output, torch.tensor([1, 3]))
    loss.backward()
    parameters = {key.removeprefix(prefix): parameter for key, parameter in model.named_parameters() if parameter.grad is not None}
    gradients = {key: parameter.grad.float().numpy().ravel() for key, parameter in parameters.items()}
    sampled = {key: gradient[:: max(1, gradient.size // SAMPLES)] for key, gradient in gradients.items()}
    np.savez_compressed(folder / "gradients.npz", loss=loss.detach().float().numpy(), **sampled)
