# mypy: allow-untyped-calls
# numba publishes no types of its functions
"""Correlations of draws over lags, label by label. Imported when first used."""

from collections.abc import Callable
from typing import Any

import numba

_Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_compiled: _Jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_inlined: _Jit = numba.njit(inline="always", error_model="numpy")


@_inlined
def _apart(draws: Any, chains: int, lag: int) -> Any:
    """Share of draws that differ from those so many sweeps before: draws (n m,)."""
    offset, count = lag * chains, 0
    for at in range(len(draws) - offset):
        count += draws[at] ^ draws[at + offset]
    return count / (len(draws) - offset)


@_compiled
def effective_sizes(draws: Any, variance: Any, chains: int, result: Any) -> None:
    """`mlcrf.inference.gibbs.diagnostics.effective_sample_size` of each of P labels.

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
