"""Format what calibration images support, as text and JSON."""

from dataclasses import asdict

from mlcrf.calibrating import CalibrationReport
from mlcrf.hints import counted
from mlcrf.metrics import Reliability
from mlcrf.reliability import Kind
from mlcrf.reports.text import format_table, to_json

_RELIABILITY_TITLES: dict[Kind, str] = {
    "labels": "labels",
    "pairs": "pairs, both present",
    "sets": "most probable set",
}


def format_calibration(report: CalibrationReport) -> str:
    """Format the images, and what they support at some precisions."""
    calibration, labels = report.calibration, report.run.labels
    images = f"{counted(len(calibration.targets), 'image')} of {calibration.data}"
    skipped = f" ({report.skipped} that it was trained on left out)" if report.skipped else ""
    confidence = report.support[0].confidence
    rows = [
        [
            f"{one.precision:g}",
            f"{len(labels) - len(one.left_out)} of {len(labels)}",
            f"{one.written:.2f}",
            f"{100 * one.share:.1f}",
        ]
        for one in report.support
    ]
    head = ["--precision", "labels written", "tags per image", "recall, %"]
    return "\n".join(
        [
            f"{report.run.path}: calibrated on {images}{skipped}",
            f"Supported with confidence {confidence:g}, for each label:",
            format_table(head, rows),
            *_describe_reaches(report),
            "",
            *_format_tempering(report),
            "",
            *_format_reliability(report),
        ]
    )


def _describe_reaches(report: CalibrationReport) -> list[str]:
    """Return a line on the families of label sets that the images ask for."""
    known = int((report.calibration.targets >= 0).all(1).sum())
    if not report.reaches:
        return ["No image has all of its labels known, which --coverage needs."]
    parts = [
        f"{level:g} by {'all label sets' if reach >= 1 else f'{100 * reach:.1f} %'}"
        for level, reach in report.reaches.items()
    ]
    return [
        f"--coverage is had on the "
        f"{counted(known, 'image')} with all labels known, by the most probable "
        f"label sets up to a total probability: {', '.join(parts)}"
    ]


def _format_tempering(report: CalibrationReport) -> list[str]:
    """Return a table of the factors that were found, and whether they are kept."""
    head = ["model", "unaries x", "couplings x", "gain, nats", "of single labels", "kept"]
    rows = [
        [
            model,
            f"{one.found.unary:.3f}",
            f"{one.found.pairwise:.3f}" if model == "crf" else "-",
            *(f"{mean:+.4f} +- {error:.4f}" for mean, error in (one.gain, one.single_gain)),
            "yes" if one.is_kept else "no",
        ]
        for model, one in report.tempering.items()
    ]
    of = report.tempering["crf"]
    loss = "likelihood of an image" if of.joint else "pseudo-likelihood of an image"
    return [
        f"Factors of potentials, from "
        f"{counted(of.images, 'image')}; gain of the {loss}, cross-validated:",
        format_table(head, rows),
    ]


def _format_reliability(report: CalibrationReport) -> list[str]:
    """Return a table of what probabilities say and what was so, before and after the factors."""
    head = ["of", "model", "was, %", "said, %", "error, %", "said after", "error after"]
    rows = []
    for kind, title in _RELIABILITY_TITLES.items():
        for model, (before, after) in report.reliability.items():
            if kind in before:
                first, then = before[kind], after[kind]
                values = (
                    then.mean_frequency,
                    first.mean_probability,
                    first.error,
                    then.mean_probability,
                    then.error,
                )
                rows.append([title, model, *(f"{100 * value:.2f}" for value in values)])
    return ["Probabilities on these images:", format_table(head, rows)]


def calibration_record(report: CalibrationReport) -> str:
    """Return the same content as one JSON object."""
    calibration = report.calibration
    return to_json(
        {
            "run": str(report.run.path),
            "data": calibration.data,
            "calibration": calibration.name,
            "images": len(calibration.targets),
            "in_training": report.skipped,
            "support": [asdict(one) for one in report.support],
            "coverage": [
                {"coverage": level, "reach": reach} for level, reach in report.reaches.items()
            ],
            "tempering": {
                model: asdict(one) | {"kept": one.is_kept}
                for model, one in report.tempering.items()
            },
            "reliability": {
                model: {
                    when: {kind: _reliability_record(found) for kind, found in each.items()}
                    for when, each in zip(("before", "after"), both, strict=True)
                }
                for model, both in report.reliability.items()
            },
            "notes": report.notes,
        }
    )


def _reliability_record(one: Reliability) -> dict[str, float]:
    return {
        "count": int(one.count.sum()),
        "probability": one.mean_probability,
        "frequency": one.mean_frequency,
        "error": one.error,
    }
