"""Precision-recall and reliability curves, thinned for plots."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.metrics.scores import CALIBRATION_BINS, Floats, Ranking, calibration_bins


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision of the shortest ranking that reaches each recall; both (P,)."""

    recall: Floats
    precision: Floats


@dataclass(frozen=True)
class Reliability:
    """Predicted probability and observed frequency in each bin of `Measures.calibration_error`.

    Attributes:
        count: number of predictions in the bin (B,).
        probability: their mean probability, NaN in an empty bin (B,).
        frequency: share of present labels, NaN in an empty bin (B,).
    """

    count: NDArray[np.int64]
    probability: Floats
    frequency: Floats


def precision_recall(
    scores: Floats, targets: NDArray[np.int8], *, points: int = 100
) -> PrecisionRecall | None:
    """Return the curve at `points` recalls, evenly spaced up to 1; None without a positive.

    No interpolation: precision may rise with recall. Equal scores count as one step, so the
    first recalls can share one step.

    Args:
        scores, targets: of one label (N,) or of several that are ranked together (N, L); unknown
            targets (-1) are left out.
    """
    ranking = Ranking(scores.ravel(), targets.ravel())
    hits, precision = ranking.steps(np.ones(scores.size))
    if not len(hits) or not hits[-1]:
        return None
    wanted = np.arange(1, points + 1) / points * hits[-1]
    places = np.searchsorted(hits, wanted - 1e-9)
    return PrecisionRecall(hits[places] / hits[-1], precision[places])


def reliability(marginals: Floats, targets: NDArray[np.int8]) -> Reliability:
    """Return the observed frequency in each bin of predicted probability; -1 is left out."""
    known = targets >= 0
    bins = calibration_bins(marginals[known])
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        probability, frequency = (
            np.bincount(bins, values, CALIBRATION_BINS) / count
            for values in (marginals[known], (targets[known] == 1).astype(np.float64))
        )
    return Reliability(count, probability, frequency)
