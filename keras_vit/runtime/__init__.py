"""How a step is computed: attention, recomputation, fused kernels, precision, seeds, devices and the trainer.

Layers say what they compute and ask this package to compute it. It imports nothing from the floors above.
"""
