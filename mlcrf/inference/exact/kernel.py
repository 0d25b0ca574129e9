"""The kernel: the coupling between the two halves as a matrix over pairs of half-states."""

import torch
from torch import Tensor

from mlcrf.inference.exact.halves import Across, Half, in_order
from mlcrf.inference.exact.scratch import Scratch

_KEEP = 2**26  # largest number of entries of a kernel that is kept; a larger kernel is recomputed
_BLOCK = 2**24  # largest number of entries per block of a larger kernel
_AT_ONCE = 2**19  # largest number of entries reordered together, so that they stay in the cache


class Kernel:
    """K = exp(joint_A + (S_A - 1/2) J (S_B - 1/2)^T + joint_B), in blocks of rows.

    Limits across the halves are part of it: 0 where a hard one is broken.

    Args:
        half_a, half_b: rows and columns.
        between: couplings between their labels, float64 (|A|, |B|).
        across: the limits across the halves.
        scratch: provides the arrays `kernel`, `block` and `natural`.
    """

    def __init__(
        self, half_a: Half, half_b: Half, between: Tensor, across: Across, scratch: Scratch
    ) -> None:
        self._half_a, self._half_b, self._between = half_a, half_b, between
        self._across = across
        self.shape = (len(half_a), len(half_b))
        self.is_kept = len(half_a) * len(half_b) <= _KEEP
        # largest absolute value of any exponent
        self.exponent_bound = (
            float(between.abs().sum()) / 4
            + half_a.exponent_bound
            + half_b.exponent_bound
            + across.largest_cost
        )
        self._made: dict[torch.dtype, Tensor] = {}
        self._scratch = scratch

    @property
    def blocks(self) -> list[slice]:
        """The ranges of rows that fit in memory; a single range if the kernel is kept."""
        size, columns = self.shape
        step = size if self.is_kept else max(1, _BLOCK // columns)
        return [slice(start, min(start + step, size)) for start in range(0, size, step)]

    def couplings(self, states_a: Tensor) -> Tensor:
        """Return S_A J S_B^T for half-states of A (..., |A|): (..., S_B), limits included.

        Not centred at 1/2, so that a coupling of any size leaves the scores of the states that
        avoid it as precise as they are.
        """
        coupled = states_a @ self._between @ self._half_b.states.T
        if self._across.limits:
            coupled += self._across.log_weights(states_a, self._half_b.states)
        return coupled

    def block(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Return some rows of the kernel, (rows, S_B), rounded four times in `dtype`.

        Valid until the next call, which may use the same memory.
        """
        if dtype in self._made:
            return self._made[dtype][rows]
        wanted = slice(0, self.shape[0]) if self.is_kept else rows
        numbers = range(self.shape[0])[wanted]
        name, shape = "kernel" if self.is_kept else "block", (len(numbers), self.shape[1])
        made = self._scratch.take(name, shape, self._between.new_empty(0, dtype=dtype))
        factor = self._half_b.joint.exp().to(dtype)
        step = max(1, _AT_ONCE // self.shape[1])
        for at in range(0, len(numbers), step):
            some = numbers[at : at + step]
            self._make(slice(some.start, some.stop), factor, made[at : at + step])
        if not self.is_kept:
            return made
        self._made[dtype] = made
        return made[rows]

    def _make(self, rows: slice, factor: Tensor, out: Tensor) -> None:
        """Multiply two small tables, one for each quarter of B, and `factor` (S_B,)."""
        left, joint = self._half_a.states[rows] - 0.5, self._half_a.joint[rows]
        tables, start = [], 0
        for quarter in self._half_b.quarters:
            stop = start + len(quarter.labels)
            exponents = left @ self._between[:, start:stop] @ (quarter.states - 0.5).T
            tables.append(exponents.add_(joint[:, None] / 2).exp_().to(factor))
            start = stop
        first, second = tables
        order = self._half_b.order
        size = first.shape[1] * second.shape[1]
        made = out if order is None else self._scratch.take("natural", (len(out), size), out)
        product = made.view(len(left), first.shape[1], second.shape[1])
        torch.mul(first[:, :, None], second[:, None], out=product)
        if order is not None:
            in_order(made, order, out)
        out.mul_(factor)
        if self._across.limits:
            of_rows = self._across.log_weights(self._half_a.states[rows], self._half_b.states)
            out.mul_(of_rows.exp_().to(out))
