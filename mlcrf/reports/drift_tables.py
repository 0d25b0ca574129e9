"""Format the comparison of images with the calibration images of a run."""

from dataclasses import asdict

from mlcrf.drift import DriftReport, Finding, Score, Verdict
from mlcrf.hints import counted
from mlcrf.reports.text import format_table, to_json

_SHOWN = 5  # differences of a score that are printed, if that many changed
_TITLES = {
    Score.LABELS: "single labels",
    Score.PAIRS: "pairs of labels",
    Score.JOINT: "whole label sets",
}


def format_drift(report: DriftReport) -> str:
    """Format the largest differences of each score, with p-values and verdicts."""
    rows = [row for verdict in report.verdicts for row in _rows(report, verdict)]
    header = ["", "largest difference", "calibrated", "here", "p-value", "verdict"]
    found = [_TITLES[one.score] for one in report.verdicts if one.found]
    said = f"DRIFT of {', '.join(found)}" if found else "no drift found"
    left_out = f" ({report.in_training} used in training left out)" if report.in_training else ""
    what = "images and labels" if report.with_targets else "images only"
    lines = [
        f"{counted(report.images, 'image')} of {report.data}{left_out}, {what}, beside "
        f"{report.reference_images} of {report.reference}: {said}",
        format_table(header, rows),
        f"p-value: chance of so large a difference without a drift, of all that a score compares; "
        f"a false alarm of any score: at most {100 * report.rate:g} %",
        f"permutations {report.permutations}, seed {report.seed}",
    ]
    return "\n".join(lines)


def drift_record(report: DriftReport) -> str:
    """Return the same content, with further differences, as one JSON object."""
    return to_json(asdict(report) | {"found": report.found})


def _rows(report: DriftReport, verdict: Verdict) -> list[list[str]]:
    changed = [one for one in verdict.findings if one.p_value <= report.rate]
    shown = changed[:_SHOWN] if verdict.found else verdict.findings[:1]
    rows = [
        [
            _TITLES[verdict.score] if at == 0 else "",
            _describe(one),
            f"{one.reference:.4g}",
            f"{one.here:.4g}",
            f"{one.p_value:.3g}",
            ("DRIFT" if verdict.found else "none found") if at == 0 else "",
        ]
        for at, one in enumerate(shown)
    ]
    if verdict.found and len(changed) > len(shown):
        rows.append(["", f"and {len(changed) - len(shown)} more", "", "", "", ""])
    return rows


def _describe(one: Finding) -> str:
    labels = ", ".join(one.labels)
    return f"{one.quantity} of {labels}" if labels else str(one.quantity)
