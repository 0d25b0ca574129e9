"""Curves of one model: precision at each recall, and reliability of probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import ProbabilitiesError

Floats = NDArray[np.float64]

CALIBRATION_BINS = 15
_ROUNDING = 1e-6  # of float32 probabilities


class Ranking:
    """One label's images in falling order of score; equal scores count as one step."""

    def __init__(self, scores: Floats, targets: NDArray[np.int8]) -> None:
        known = np.flatnonzero(targets >= 0)
        self.order = known[np.argsort(-scores[known], kind="stable")]
        ranked = scores[self.order]
        self.positive = targets[self.order] == 1
        last_of_equals = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
        self.ends = np.flatnonzero(last_of_equals)

    def steps(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the positives down to each step, and the precision there."""
        w = weights[self.order]
        hits = np.cumsum(w * self.positive)[self.ends]
        found = np.cumsum(w)[self.ends]
        return hits, np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)

    def average_precision(self, weights: Floats) -> float:
        """Return the area below the steps, not interpolated; NaN without a positive."""
        hits, precision = self.steps(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        return float(np.diff(hits, prepend=0.0) @ precision / hits[-1])


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision of the shortest ranking that reaches each recall; both (P,)."""

    recall: Floats
    precision: Floats


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

    @property
    def mean_probability(self) -> float:
        """Over all predictions; NaN if there is none."""
        return self._mean(self.probability)

    @property
    def mean_frequency(self) -> float:
        """Over all predictions; NaN if there is none."""
        return self._mean(self.frequency)

    @property
    def error(self) -> float:
        """The gap of probability and frequency in a bin, mean over predictions; NaN if none."""
        return self._mean(np.abs(self.probability - self.frequency))

    def _mean(self, values: Floats) -> float:
        filled = self.count > 0
        return share(float(self.count[filled] @ values[filled]), float(self.count.sum()))


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


def calibration_bins(marginals: Floats) -> NDArray[np.int64]:
    """Return the bin of each probability.

    Raises:
        ProbabilitiesError: a value is NaN, below 0 or above 1 by more than rounding.
    """
    wrong = ~((marginals >= -_ROUNDING) & (marginals <= 1 + _ROUNDING))
    if wrong.any():
        raise ProbabilitiesError(
            f"marginals: expected probabilities from 0 to 1, got {marginals[wrong][0]:g}"
        )
    marginals = marginals.clip(0, 1)
    return np.minimum((marginals * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def share(part: float, whole: float) -> float:
    """Return the quotient; NaN for a resample without any known label."""
    return part / whole if whole else float("nan")
