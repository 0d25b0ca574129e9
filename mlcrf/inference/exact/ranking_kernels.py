# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Numba kernels over the probable label sets of an image. Imported when first used.

A label set is a pair of half-states a and b, of log-probability

    log_a[a] + couplings[a, b] + log_b[b]

Only some rows are visited: those of half-states of A that can be part of a set above a floor. Of
a row, runs of columns whose largest value is below the floor are skipped, by a maximum in vector
registers. Log-probabilities are rounded to a grid of 2^-30, so that sets whose probabilities
are equal but for rounding count as equal.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

GRID = 2.0**30
_Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_compiled: _Jit = numba.njit(cache=True, nogil=True, error_model="numpy")


_max: _Jit = numba.njit(fastmath={"nnan", "nsz", "reassoc"}, error_model="numpy")
_RUN = 32  # columns that are skipped together


@_max
def _largest(couplings: Any, log_b: Any, start: int, stop: int) -> float:
    """Return the largest value of a run of columns, without the row's own part."""
    most = -np.inf
    for b in range(start, stop):
        most = max(most, couplings[b] + log_b[b])
    return most


@_compiled
def sum_above(log_a: Any, couplings: Any, log_b: Any, rows: Any, at: float) -> tuple[float, float]:
    """Return the probability of the sets above a log-probability, and of those that have it."""
    above, equal, half = 0.0, 0.0, 0.5 / GRID
    for a in rows:
        row, floor = couplings[a], at - half - log_a[a]
        for start in range(0, len(log_b), _RUN):
            stop = min(start + _RUN, len(log_b))
            if _largest(row, log_b, start, stop) < floor - half:
                continue
            for b in range(start, stop):
                value = log_a[a] + row[b] + log_b[b]
                if value > at + half:
                    above += np.exp(value)
                elif value >= at - half:
                    equal += np.exp(value)
    return above, equal


@_compiled
def tally(
    log_a: Any, couplings: Any, log_b: Any, rows: Any, floor: float, scale: float, counts: Any,
    masses: Any,
) -> None:  # fmt: skip
    """Add the sets from a floor on to bins of width 1 / scale in falling log-probability.

    The last bin takes all that is below it.

    Args:
        counts, masses: int64 and float64 (bins,), in place.
    """
    last = len(counts) - 1
    for a in rows:
        row = couplings[a]
        for start in range(0, len(log_b), _RUN):
            stop = min(start + _RUN, len(log_b))
            if _largest(row, log_b, start, stop) < floor - log_a[a] - 1 / GRID:
                continue
            for b in range(start, stop):
                value = log_a[a] + row[b] + log_b[b]
                if value >= floor and value > -np.inf:
                    rounded = np.rint(value * GRID) / GRID
                    place = min(max(int(-rounded * scale), 0), last)
                    counts[place] += 1
                    masses[place] += np.exp(rounded)


@_compiled
def collect(
    log_a: Any, couplings: Any, log_b: Any, rows: Any, floor: float, scale: float, wanted: int,
    last: int, values: Any,
) -> None:  # fmt: skip
    """List the rounded log-probabilities of the sets in one bin of `tally`, in place."""
    found = 0
    lowest = floor if wanted == last else max(floor, -(wanted + 1) / scale - 1 / GRID)
    for a in rows:
        row = couplings[a]
        for start in range(0, len(log_b), _RUN):
            stop = min(start + _RUN, len(log_b))
            if _largest(row, log_b, start, stop) < lowest - log_a[a] - 1 / GRID:
                continue
            for b in range(start, stop):
                value = log_a[a] + row[b] + log_b[b]
                if value >= lowest and value >= floor and value > -np.inf:
                    rounded = np.rint(value * GRID) / GRID
                    if min(max(int(-rounded * scale), 0), last) == wanted:
                        values[found] = rounded
                        found += 1


@_compiled
def mark(
    log_a: Any, couplings: Any, log_b: Any, rows: Any, least: float, in_a: Any, in_b: Any
) -> None:
    """Mark the half-states that are part of a set of at least a log-probability, in place."""
    for a in rows:
        row, floor = couplings[a], least - log_a[a] - 0.5 / GRID
        for start in range(0, len(log_b), _RUN):
            stop = min(start + _RUN, len(log_b))
            if _largest(row, log_b, start, stop) < floor:
                continue
            for b in range(start, stop):
                if row[b] + log_b[b] >= floor and row[b] + log_b[b] > -np.inf:
                    in_a[a] = True
                    in_b[b] = True
