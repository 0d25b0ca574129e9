"""Scores of predictions, with bootstrap intervals and curves."""

from mlcrf.metrics.bootstrap import bootstrap_differences
from mlcrf.metrics.curves import PrecisionRecall, Reliability, precision_recall, reliability
from mlcrf.metrics.scores import (
    LOWER_IS_BETTER,
    Measures,
    Predictions,
    Statistics,
    gather_statistics,
)

__all__ = [
    "LOWER_IS_BETTER",
    "Measures",
    "PrecisionRecall",
    "Predictions",
    "Reliability",
    "Statistics",
    "bootstrap_differences",
    "gather_statistics",
    "precision_recall",
    "reliability",
]
