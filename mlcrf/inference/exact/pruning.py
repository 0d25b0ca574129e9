"""Pruning: the tiles of the kernel that an image needs, with a bound on the rest.

Half-states are sorted by the mass that they typically carry, and the kernel is cut into tiles of
neighbouring ones. The part of an image's Z in a tile (i, j) is at most

    sum_{a in i, b in j} alpha_a K_ab beta_b
        <= m_ij (sum_{a in i} alpha_a r_a) (sum_{b in j} beta_b c_b)

with m_ij the largest K_ab / (r_a c_b) of the tile, where r_a and c_b are means of the kernel's rows
and columns, which make the bound tight. Tiles are dropped in rising order of their bounds, as long
as the bounds sum to at most the tolerance times Z: an estimate of Z first, and where the sum of the
kept tiles shows that the estimate was too high, that sum. No marginal, of a label or a pair, is
then off by more than the tolerance.

Tiles that nearly all images need are multiplied together for all images; any other tile only for
the images that need it.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.inference.exact.kernel import Kernel

_TILES = 8  # smallest number of tiles along each half
_LEAST_TILE = 256  # smallest number of half-states along a tile side
DENSE = 0.5  # if a larger share of tiles is needed, everything is summed
_USUAL = 0.85  # a tile needed by this share of images is multiplied for all
_CAUTION = 0.6  # share of the tolerance used if Z is an estimate
_ROUNDING = 1.001  # factor on the bounds, which are computed in float32


@dataclass(frozen=True)
class TilePlan:
    """The products of tiles to compute.

    Attributes:
        rows, columns: ranges of half-states, the tiles' sides.
        kept: whether each image needs each tile, boolean (N, rows, columns).
        dropped: bound on the mass that is left out, scaled as the weights are, float64 (N,).
    """

    rows: list[slice]
    columns: list[slice]
    kept: Tensor
    dropped: Tensor

    @property
    def share(self) -> float:
        """The share of the full product's operations."""
        return float(self.kept.double().mean())

    @cached_property
    def products(self) -> list[tuple[slice, slice, Tensor | None]]:
        """Half-states of A, of B, and the images that need their product, int64 (n,); None for all.

        Neighbouring tiles that all images need are one product.
        """
        whole = self.kept.all(0)
        some = (self.kept.any(0) & ~whole).nonzero().tolist()
        by_tile = self.kept.permute(1, 2, 0).contiguous()
        found: list[tuple[slice, slice, Tensor | None]] = [
            (self.rows[row], self.columns[column], by_tile[row, column].nonzero().squeeze(1))
            for row, column in some
        ]
        left = whole.cpu().numpy()
        while left.any():  # as far to the right as it goes, then as far down
            row, column = np.argwhere(left)[0]
            right = column + _run(left[row, column:])
            below = row + _run(np.all(left[row:, column:right], axis=1))
            left[row:below, column:right] = False
            found.append((_span(self.rows[row:below]), _span(self.columns[column:right]), None))
        return found

    def among(self, images: Tensor) -> "TilePlan":
        """Return the plan of some of the images, int64 (n,) or boolean (N,)."""
        return replace(self, kept=self.kept[images], dropped=self.dropped[images])

    def updated(self, images: Tensor, other: "TilePlan") -> "TilePlan":
        """Return the plan with another one for some images, int64 (n,)."""
        kept, dropped = self.kept.clone(), self.dropped.clone()
        kept[images], dropped[images] = other.kept, other.dropped
        return replace(self, kept=kept, dropped=dropped)


def popularity(
    weights: Tensor, states: Tensor, field: Tensor, tolerance: float
) -> tuple[Tensor, float]:
    """Sort half-states by the mass that they typically carry, largest first.

    The other half is taken at its mean, image by image, which is enough for an order.

    Args:
        weights: of typical images, (N, S).
        states: float64 (S, l).
        field: the contribution of the other half's mean to each label's unary, float64 (l, N).

    Returns:
        The order (S,), and the share of the half-states with all but `tolerance` of the mass.
    """
    mass = weights * ((states - 0.5) @ field).exp().T
    mass = (mass / mass.sum(1, keepdim=True)).nan_to_num()
    order = mass.sqrt().mean(0).argsort(descending=True, stable=True)
    reached = mass.mean(0)[order].cumsum(0)
    return order, float((reached < (1 - tolerance) * reached[-1]).double().mean())


class Pruner:
    """Bounds on the tiles of one kernel whose half-states are sorted.

    Args:
        alpha, beta: weights of typical images' half-states, (N, S_A) and (N, S_B).
        tolerance: the share of an image's Z that may be left out.

    Cost: a few passes over the kernel, once.
    """

    def __init__(self, kernel: Kernel, alpha: Tensor, beta: Tensor, tolerance: float) -> None:
        self.tolerance = tolerance
        self._rows, self._columns = (
            _ranges(size, max(_LEAST_TILE, size // _TILES)) for size in kernel.shape
        )
        matrix = kernel.block(slice(0, kernel.shape[0]), torch.float32)
        weight_a, weight_b = alpha.mean(0), beta.mean(0)
        mean_a = matrix @ (weight_b / weight_b.sum())
        mean_b = (weight_a / weight_a.sum()) @ matrix
        self._spread_a = _spread(mean_a, self._rows)
        self._spread_b = _spread(mean_b, self._columns)
        weighted_b = _spread(weight_b, self._columns)
        largest, typical = [], []
        for rows in self._rows:
            relative = (matrix[rows] / mean_b).div_(mean_a[rows, None]).amax(0)
            largest.append(torch.stack([relative[columns].max() for columns in self._columns]))
            typical.append(weight_a[rows] @ matrix[rows] @ weighted_b)
        scale = (weight_a @ self._spread_a)[:, None] * (weight_b @ self._spread_b)
        self._largest = torch.stack(largest) * _ROUNDING
        self._typical = (torch.stack(typical) / scale).nan_to_num()

    def plan(self, alpha: Tensor, beta: Tensor, at_least: Tensor | None = None) -> TilePlan:
        """Return the products for these images, weights (N, S_A) and (N, S_B).

        Args:
            at_least: a lower bound on Z (N,); None to estimate it.

        Cost: 2 N (S_A + S_B) operations times the number of tiles along a half.
        """
        bounds, estimate = self.bounds(alpha, beta)
        rising = bounds.flatten(1).sort(1)
        budget = self.tolerance * (_CAUTION * estimate if at_least is None else at_least)
        dropping = rising.values.cumsum(1) <= budget[:, None]
        kept = torch.ones_like(dropping).scatter(1, rising.indices, ~dropping).view_as(bounds)
        kept |= kept.double().mean(0) >= _USUAL
        dropped = bounds.masked_fill(kept, 0).sum((1, 2), dtype=torch.float64)
        return TilePlan(self._rows, self._columns, kept, dropped)

    def bounds(self, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds on every tile's mass (N, rows, columns), and an estimate of Z (N,)."""
        sum_a, sum_b = alpha @ self._spread_a, beta @ self._spread_b
        estimate = ((sum_a @ self._typical) * sum_b).sum(1)
        # NaN means no bound
        bounds = (sum_a[:, :, None] * self._largest).mul_(sum_b[:, None])
        return bounds.nan_to_num_(torch.inf, torch.inf), estimate


def _spread(values: Tensor, ranges: list[slice]) -> Tensor:
    """Return a column for each range with the values in it, 0 elsewhere (S, ranges)."""
    result = values.new_zeros(len(ranges), len(values))
    for row, one in enumerate(ranges):
        result[row, one] = values[one]
    return result.T


def _ranges(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _run(flags: NDArray[np.bool_]) -> int:
    """Count the true values before the first false one."""
    return int(np.append(flags, False).argmin())


def _span(ranges: list[slice]) -> slice:
    return slice(ranges[0].start, ranges[-1].stop)
