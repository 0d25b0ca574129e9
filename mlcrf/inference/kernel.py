"""What couples the two halves: a positive matrix over pairs of half-states."""

import torch
from torch import Tensor

from mlcrf.inference.halves import Half, all_states

_KEEP = 2**26  # a kernel up to this many entries is kept, a larger one made again when needed
_AT_ONCE = 128  # rows that are made at once, so that they stay in the processor's cache


class Kernel:
    """K = exp((S_A - 1/2) J (S_B - 1/2)^T), in blocks of rows.

    Args:
        half_a, half_b: rows and columns.
        between: couplings between their labels, float64 (|A|, |B|).
    """

    def __init__(self, half_a: Half, half_b: Half, between: Tensor) -> None:
        self._half_a, self._half_b, self._between = half_a, half_b, between
        self.shape = (len(half_a), len(half_b))
        # no exponent is larger in size
        self.exponent_bound = float(between.abs().sum()) / 4
        self._made: dict[torch.dtype, Tensor] = {}

    def exponents(self, states_a: Tensor) -> Tensor:
        """Log-kernel of given half-states of A (..., |A|) against all of B: (..., 2^|B|)."""
        return (states_a - 0.5) @ self._between @ (self._half_b.states - 0.5).T

    def block(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows of the kernel, (rows, S_B); rounded twice in `dtype`."""
        if self.shape[0] * self.shape[1] > _KEEP:
            return self._make(rows, dtype)
        if dtype not in self._made:
            whole = self._between.new_empty(self.shape, dtype=dtype)
            for start in range(0, len(whole), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                whole[part] = self._make(part, dtype)
            self._made[dtype] = whole
        return self._made[dtype][rows]

    def _make(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """The product of two small tables, one for each part of B's labels."""
        left = self._half_a.states[rows] - 0.5
        num_labels = self._between.shape[1]
        product = None
        for part in (slice(0, num_labels // 2), slice(num_labels // 2, num_labels)):
            states = all_states(part.stop - part.start).to(self._between)
            table = (left @ self._between[:, part] @ (states - 0.5).T).exp().to(dtype)
            powers = 2.0 ** torch.arange(states.shape[1] - 1, -1, -1, device=states.device)
            index = (self._half_b.states[:, part] @ powers.to(self._between)).long()
            factor = table.index_select(1, index)
            product = factor if product is None else product.mul_(factor)
        assert product is not None
        return product
