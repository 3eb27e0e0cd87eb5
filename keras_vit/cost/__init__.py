"""What a configuration costs: parameters, multiply-adds, memory and time."""

from keras_vit.cost.counts import Cost, cost, cost_by_part
