"""Measures models on this machine: benchmarks, and a calibration for the prediction of times."""

from keras_vit.profiling.calibration import calibrate, is_calibrated
from keras_vit.profiling.throughput import benchmark

__all__ = ["benchmark", "calibrate", "is_calibrated"]
