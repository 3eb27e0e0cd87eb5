"""How a step is computed: attention, recomputation, fused kernels, precision, seeds, devices and the trainer.

Layers say what they compute and ask this package to compute it. It imports nothing from the floors above.
"""

from keras_vit.runtime.devices import processes
from keras_vit.runtime.switch import fast_paths, use_fast_paths
