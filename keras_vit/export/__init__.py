"""Exports models for other runtimes, runs the exported files there, and compares them with Keras."""

from keras_vit.export.exporting import Check, export_model
from keras_vit.export.formats import FORMATS

__all__ = ["FORMATS", "Check", "export_model"]
