"""Runs as files that other programs run."""

from mlcrf.export.graph import TaggerGraph, choose_marginals
from mlcrf.export.onnx_file import OUTPUTS, ExportReport, export_onnx
from mlcrf.export.pictures import draw_pictures, load_pictures

__all__ = [
    "OUTPUTS",
    "ExportReport",
    "TaggerGraph",
    "choose_marginals",
    "draw_pictures",
    "export_onnx",
    "load_pictures",
]
