"""Likely errors of annotations as a table."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mlcrf.hints import counted
from mlcrf.reports.text import format_table
from mlcrf.training.auditing import Audit, Suspect

COLUMNS = ("image", "label", "given", "p_image", "p_others", "score", "suggestion", "because")


def suspects_frame(audit: Audit, suspects: Sequence[Suspect]) -> pd.DataFrame:
    """Return one row per suspect."""
    images = audit.manifest.images
    rows = [
        (
            images[one.row].address,
            one.label,
            one.given,
            round(one.p_image, 4),
            round(one.p_others, 4),
            round(one.score, 4),
            one.suggestion,
            _because(one),
        )
        for one in suspects
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def audit_record(audit: Audit, suspects: Sequence[Suspect]) -> dict[str, Any]:
    """Return counts of annotations and suspects."""
    scores = audit.scores
    return {
        "data": audit.manifest.name,
        "images": len(audit.manifest),
        "annotations": int((~scores.isnan()).sum()),
        "expected_errors": round(float(scores.nansum()), 1),
        "suspects": len(suspects),
        "labels": dict(Counter(one.label for one in suspects).most_common()),
    }


def format_audit(audit: Audit, suspects: Sequence[Suspect], *, top: int) -> str:
    """Return counts, the labels with most suspects, and the first suspects."""
    record = audit_record(audit, suspects)
    images, annotations = record["images"], record["annotations"]
    lines = [
        f"{counted(images, 'image')}, {counted(annotations, 'annotation')}; "
        f"more likely wrong than right: {record['suspects']}"
    ]
    if not suspects:
        return lines[0]
    counts = [f"{name} {count}" for name, count in list(record["labels"].items())[:10]]
    lines.append(f"by label: {', '.join(counts)}")
    if top:
        rows = [
            (
                audit.manifest.images[one.row].file_name,
                f"{'not ' if one.given == 0 else ''}{one.label}",
                f"{one.p_image:.3f}",
                f"{one.p_others:.3f}",
                _because(one),
            )
            for one in suspects[:top]
        ]
        header = ("image", "given", "p by image", "p with others", "because")
        lines += ["", format_table(header, rows)]
    return "\n".join(lines)


def _because(suspect: Suspect) -> str:
    return "; ".join(f"{name}={said} ({nats:+.1f})" for name, said, nats in suspect.because)
