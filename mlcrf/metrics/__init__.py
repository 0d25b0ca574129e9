"""From predictions and truth to scores, with what is needed to trust and to repeat them."""

from mlcrf.metrics.bootstrap import bootstrap_differences
from mlcrf.metrics.scores import Measures, Predictions, Statistics, gather_statistics

__all__ = [
    "Measures",
    "Predictions",
    "Statistics",
    "bootstrap_differences",
    "gather_statistics",
]
