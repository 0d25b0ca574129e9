"""Format what an export has written, and its differences from the run, as text and JSON."""

from dataclasses import asdict

from mlcrf.export import OUTPUTS, ExportReport
from mlcrf.hints import counted
from mlcrf.reports.text import to_json


def format_export(report: ExportReport) -> str:
    """Format file, inference, differences and, as information only, size and speed."""
    inputs = ", ".join(
        f"{name} uint8 (N, {size}, {size}, 3)" for name, size in report.inputs.items()
    )
    count = report.num_images
    return "\n".join(
        [
            f"{report.path}: {report.num_bytes / 1e6:.1f} MB",
            f"inputs: {inputs}; outputs: {', '.join(OUTPUTS)}",
            f"inference: {report.inference}; the run's own is {report.own_inference}",
            "largest difference over "
            f"{counted(count, 'image')}: {report.rounding:.1e} between onnxruntime "
            f"and torch, {report.largest_gap:.1e} from the run's own inference",
            f"mean difference from the run's own inference: {report.mean_gap:.1e} "
            f"(that of independent: {report.independent_gap:.1e})",
            "time for "
            f"{counted(count, 'image')} here: onnxruntime {report.seconds:.2f} s, the run's own "
            f"engine {report.own_seconds:.2f} s",
        ]
    )


def export_record(report: ExportReport) -> str:
    """Return the same content as one JSON object."""
    return to_json(asdict(report) | {"path": str(report.path)})
