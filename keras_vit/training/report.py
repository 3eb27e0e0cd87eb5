"""The report of a run, under its earlier name: see `keras_vit.training.results`."""

from keras_vit.training.results.pictures import draw_confusion, draw_curves, draw_mistakes
from keras_vit.training.results.report import write_page, write_report

__all__ = ["draw_confusion", "draw_curves", "draw_mistakes", "write_page", "write_report"]
