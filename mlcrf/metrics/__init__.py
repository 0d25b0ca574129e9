"""Scores of predictions, their intervals, and curves; docs/measures.md defines all measures.

To add a measure: a field of `Measures` and a row of `MEASURES`; its formula in
`Statistics.by_image` if it is a mean over images, else in `Statistics.measures`; its row in
docs/measures.md. A measure that is only there where it is asked for is None elsewhere.
"""

from mlcrf.metrics.bootstrap import Interval, bootstrap_differences, bootstrap_from
from mlcrf.metrics.curves import (
    PrecisionRecall,
    Ranking,
    Reliability,
    precision_recall,
    reliability,
)
from mlcrf.metrics.measures import COST_MEASURES, MEASURES, SYMBOLS, Measures
from mlcrf.metrics.scoring import Predictions, Statistics, Unknown, gather_statistics

__all__ = [
    "COST_MEASURES",
    "MEASURES",
    "SYMBOLS",
    "Interval",
    "Measures",
    "PrecisionRecall",
    "Predictions",
    "Ranking",
    "Reliability",
    "Statistics",
    "Unknown",
    "bootstrap_differences",
    "bootstrap_from",
    "gather_statistics",
    "precision_recall",
    "reliability",
]
