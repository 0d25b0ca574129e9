"""Tests of whether images are like those that a run was calibrated on: `mlcrf drift`."""

from mlcrf.drift.comparing import (
    DriftReport,
    Finding,
    Verdict,
    compare_samples,
    find_drift,
)
from mlcrf.drift.scores import Quantity, Sample, Score

__all__ = [
    "DriftReport",
    "Finding",
    "Quantity",
    "Sample",
    "Score",
    "Verdict",
    "compare_samples",
    "find_drift",
]
