"""From predictions and truth to scores, with what is needed to trust and to repeat them."""

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
