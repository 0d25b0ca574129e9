"""Export of runs to ONNX."""

from mlcrf.export.comparison import draw_images, load_images
from mlcrf.export.onnx_file import ExportReport, export_onnx
from mlcrf.export.tagger_module import OUTPUTS, TaggerModule, choose_marginals

__all__ = [
    "OUTPUTS",
    "ExportReport",
    "TaggerModule",
    "choose_marginals",
    "draw_images",
    "export_onnx",
    "load_images",
]
