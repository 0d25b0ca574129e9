# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Numba kernels over sampled states. Imported when first used, because numba loads slowly.

Sums are for many labels of which few are present: a row of a sample, the state of one image in one
chain, is read once; then only its present labels and their neighbours are looked at. Neighbours
come in compressed rows, as `mlcrf.crf.neighbours` gives them: `others`, `edge` and `weights` of
label i are at starts[i] to starts[i + 1], in rising order.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_compiled: _Jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_inlined: _Jit = numba.njit(inline="always", error_model="numpy")


@_inlined
def _list_present(row: Any, present: Any) -> int:
    """List the labels of a state; return their number."""
    count = 0
    for label in range(len(row)):
        if row[label]:
            present[count] = label
            count += 1
    return count


@_inlined
def _log_sigmoid(x: float) -> Any:
    return min(x, 0.0) - np.log1p(np.exp(-abs(x)))


@_compiled
def pair_sums(
    samples: Any, unary: Any, known: Any, starts: Any, others: Any, edge: Any, weights: Any,
    totals: Any,
) -> None:  # fmt: skip
    """Add y_i p_j + p_i y_j, summed over samples and images, to each edge's total.

    p_i is P(y_i = 1 | the others), or the value of a known label.

    Args:
        samples: uint8 (S, N, L).
        unary: (N, L); known: 1, 0 or -1 for unknown (N, L).
        totals: float64 (E,), in place.
    """
    labels = samples.shape[2]
    present, touched = np.empty(labels, np.int64), np.empty(labels, np.int64)
    seen, value = np.zeros(labels, np.bool_), np.empty(labels, np.float64)
    for sample in range(samples.shape[0]):
        for image in range(samples.shape[1]):
            count, reached = _list_present(samples[sample, image], present), 0
            for which in range(count):
                for entry in range(starts[present[which]], starts[present[which] + 1]):
                    other = others[entry]
                    if not seen[other]:
                        seen[other] = True
                        touched[reached] = other
                        reached += 1
                        value[other] = unary[image, other]
                    value[other] += weights[entry]
            for which in range(reached):
                other = touched[which]
                seen[other] = False
                if known[image, other] >= 0:
                    value[other] = known[image, other]
                else:
                    value[other] = 1 / (1 + np.exp(-value[other]))
            for which in range(count):
                for entry in range(starts[present[which]], starts[present[which] + 1]):
                    totals[edge[entry]] += value[others[entry]]


@_compiled
def scores(samples: Any, unary: Any, starts: Any, others: Any, weights: Any, result: Any) -> None:
    """Write the log-score of every state of samples (S, N, L) to a float64 result (S, N)."""
    present = np.empty(samples.shape[2], np.int64)
    for sample in range(samples.shape[0]):
        for image in range(samples.shape[1]):
            count, total = _list_present(samples[sample, image], present), 0.0
            for which in range(count):
                label = present[which]
                total += unary[image, label]
                for entry in range(starts[label], starts[label + 1]):
                    if others[entry] > label:
                        break
                    if samples[sample, image, others[entry]]:
                        total += weights[entry]
            result[sample, image] = total


@_compiled
def log_steps(
    samples: Any, before: Any, sign: Any, free: Any, starts: Any, others: Any, weights: Any,
    result: Any,
) -> None:  # fmt: skip
    """Compute the log-probability that a sweep ends in one state, from every sample (S, N, L).

        sum over free i of log sigmoid(sign_i (before_i + sum_{j > i} pairwise_ij y_j))

    Args:
        before, sign, free: the log-odds of each label from those before it, 1 where the end has the
            label and -1 where not, and whether it is drawn (N, L).
        result: float64 (S, N), which holds the sums where no label is present; in place.
    """
    labels = samples.shape[2]
    present, touched = np.empty(labels, np.int64), np.empty(labels, np.int64)
    later = np.zeros(labels, np.float64)
    seen = np.zeros(labels, np.bool_)
    for sample in range(samples.shape[0]):
        for image in range(samples.shape[1]):
            count, reached = _list_present(samples[sample, image], present), 0
            for which in range(count):
                label = present[which]
                for entry in range(starts[label], starts[label + 1]):
                    other = others[entry]
                    if other > label:
                        break
                    if not seen[other]:
                        seen[other] = True
                        touched[reached] = other
                        reached += 1
                        later[other] = 0.0
                    later[other] += weights[entry]
            change = 0.0
            for which in range(reached):
                other = touched[which]
                seen[other] = False
                if free[image, other]:
                    alone, s = before[image, other], sign[image, other]
                    change += _log_sigmoid(s * (alone + later[other])) - _log_sigmoid(s * alone)
            result[sample, image] += change


@_inlined
def _apart(draws: Any, chains: int, lag: int) -> Any:
    """Return the share of draws (n m,) that differ from the draw `lag` sweeps before."""
    offset, count = lag * chains, 0
    for at in range(len(draws) - offset):
        count += draws[at] ^ draws[at + offset]
    return count / (len(draws) - offset)


@_compiled
def effective_sizes(draws: Any, variance: Any, chains: int, result: Any) -> None:
    """Compute `diagnostics.effective_sample_size` of each of P labels.

    Args:
        draws: 0 or 1, sweep by sweep, uint8 (P, n m); chains: m.
        variance: of all draws (P,).
        result: float64 (P,).
    """
    for label in range(len(draws)):
        total = -1.0
        if variance[label] > 0:
            for lag in range(0, draws.shape[1] // chains - 1, 2):
                apart = _apart(draws[label], chains, lag)
                apart += _apart(draws[label], chains, lag + 1)
                pair = 2 - apart / (2 * variance[label])
                if pair < 0:
                    break
                total += 2 * pair
        result[label] = draws.shape[1] / max(total, 1.0)
