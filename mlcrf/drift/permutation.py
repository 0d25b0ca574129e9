"""Compare the means of many statistics in two samples by a permutation test of the largest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_AT_ONCE = 64  # permutations that are evaluated together


@dataclass(frozen=True)
class Change:
    """Difference of the means of K statistics, new minus reference.

    Attributes:
        reference, new: means (K,).
        standardised: difference of the means in standard errors (K,).
        p_values: probability, if both samples are drawn alike, that the largest of all K
            differences is as large as this one (K,).
        p_value: the same of the largest one; 1 if there is none.
    """

    reference: Floats
    new: Floats
    standardised: Floats
    p_values: Floats
    p_value: float


def compare_means(
    reference: Floats, new: Floats, *, permutations: int = 999, seed: int = 0
) -> Change:
    """Test whether any of K statistics of the units of two samples has changed in the mean.

    The largest standardised difference is compared with those after the units have been dealt to
    the two samples at random. If units of both samples are exchangeable, it is among the
    `permutations` + 1 values as likely at one place as at another, so that a p-value of at most q
    occurs with a probability of at most q, whatever the distribution and however the K statistics
    depend on each other.

    Args:
        reference, new: statistics of the units (M, K) and (N, K); NaN where one is unknown, which
            is left out of its mean.

    Cost: O(permutations (M + N) K).

    Source: Westfall and Young (1993), Resampling-based multiple testing, section 2.6 (the largest
    of several); Phipson and Smyth (2010), Permutation p-values should never be zero.
    """
    values = np.concatenate([reference, new])
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(known, values, 0).sum(0) / known.sum(0)
        centred = np.where(known, values - centre, 0.0)
        spread = np.sqrt((centred**2).sum(0) / known.sum(0))
    # what is constant but for rounding cannot change
    varies = spread > 1e-9 * np.maximum(1, np.abs(centre))
    test = _Standardised(centred, known, np.where(varies, spread, np.inf), len(new))
    is_new = np.arange(len(values)) >= len(reference)
    observed = test.of(is_new[None])[0]
    rng = np.random.default_rng(seed)
    largest = []
    for start in range(0, permutations, _AT_ONCE):
        dealt = rng.permuted(np.tile(is_new, (min(_AT_ONCE, permutations - start), 1)), axis=1)
        largest.append(np.abs(test.of(dealt)).max(axis=1, initial=0))
    ranked = np.sort(np.concatenate([*largest, np.empty(0)]))
    # rounding must not separate equal values
    above = permutations - np.searchsorted(ranked, np.abs(observed) * (1 - 1e-9), side="left")
    p_values = (1 + above) / (1 + permutations)
    return Change(
        _means(reference), _means(new), observed, p_values, float(p_values.min(initial=1))
    )


class _Standardised:
    """The differences of means in standard errors, for any division of the units."""

    def __init__(
        self, centred: Floats, known: NDArray[np.bool_], spread: Floats, size: int
    ) -> None:
        self._centred, self._spread = centred.astype(np.float32), spread
        self._known = None if known.all() else known.astype(np.float32)
        self._counts, self._size = known.sum(0), size

    def of(self, is_new: NDArray[np.bool_]) -> Floats:
        """Return them for some divisions: bool (P, M + N) -> (P, K)."""
        dealt = is_new.astype(np.float32)
        sums = (dealt @ self._centred).astype(np.float64)
        size = np.full((1, 1), float(self._size))
        if self._known is not None:
            size = (dealt @ self._known).astype(np.float64)
        others = self._counts - size
        # the sum over all units is 0
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = sums / size + sums / others
            found = difference / (self._spread * np.sqrt(1 / size + 1 / others))
        finite: Floats = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
        return finite


def _means(values: Floats) -> Floats:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = np.where(known, values, 0).sum(0) / known.sum(0)
    return means
