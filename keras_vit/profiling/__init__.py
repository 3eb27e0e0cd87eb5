"""Measures models on this machine: its calibration, for predictions, and benchmarks."""

from keras_vit.profiling.calibration import calibrate, is_calibrated
from keras_vit.profiling.throughput import benchmark

__all__ = ["benchmark", "calibrate", "is_calibrated"]
