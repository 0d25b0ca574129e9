"""Export of runs to ONNX."""

from mlcrf.export.comparison import draw_images, load_images
from mlcrf.export.graph import OUTPUTS, TaggerGraph, choose_marginals
from mlcrf.export.onnx_file import ExportReport, export_onnx

__all__ = [
    "OUTPUTS",
    "ExportReport",
    "TaggerGraph",
    "choose_marginals",
    "draw_images",
    "export_onnx",
    "load_images",
]
