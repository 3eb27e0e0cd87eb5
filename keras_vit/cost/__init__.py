"""The cost of a configuration: parameters, multiply-adds, memory and time."""

from keras_vit.cost.counts import Cost, cost, cost_by_part
from keras_vit.cost.device import Device, this_device
from keras_vit.cost.memory import Memory, step_memory
from keras_vit.cost.seconds import Machine, Seconds
from keras_vit.cost.step import Step, estimate_step, largest_batch
