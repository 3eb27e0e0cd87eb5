"""Models for other runtimes: written, run in their runtime, and compared with Keras."""

from keras_vit.export.exporting import Check, export_model
from keras_vit.export.formats import FORMATS

__all__ = ["FORMATS", "Check", "export_model"]
