"""Which tiles of the kernel an image needs, with a bound on what is left out.

Half-states are sorted by how much mass they typically carry, and the kernel is cut into tiles of
neighbouring ones. The share of a tile (i, j) in an image's Z,

    sum_{a in i, b in j} alpha_a K_ab beta_b

is bounded without looking into the tile, by the Cauchy-Schwarz inequality with weights w_a K_ab v_b
and ratios alpha_a / w_a, beta_b / v_b to a reference (w, v) that all images share:

    <= sqrt( sum_{a in i} (alpha_a^2 / w_a) (K v_j)_a )
       sqrt( sum_{b in j} (beta_b^2 / v_b) (w_i K)_b )

which is an equality where the image is the reference. Tiles are dropped in rising order of their
bounds, as long as these sum to no more than the tolerance times a lower bound on Z: the first tile,
summed in full. No marginal, of one label or two, is then off by more than that share.

Images that need about as many tiles are put together, for products with many columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.inference.halves import Half
from mlcrf.inference.kernel import Kernel

_TILES = 16  # along each half, at least
_LEAST_TILE = 64  # half-states along a side
_GROUP = 128  # images that share a choice of tiles
_DENSE = 0.6  # keeping a larger share than this is not worth the smaller products
_ROUNDING = 1.001  # of the bounds, computed in float32
_BLOCK = 2**24  # entries of the kernel that are multiplied at once where nothing is dropped


@dataclass(frozen=True)
class Plan:
    """The products to make.

    Attributes:
        order: the images, those of a group one after the other, int64 (N,); None as they come.
        groups: ranges of `order`.
        rows, columns: ranges of half-states, the tiles' sides.
        kept: whether a group needs a tile, boolean (groups, rows, columns).
        dropped: bound on the share of Z that is left out, float64 (N,), in that order.
    """

    order: Tensor | None
    groups: list[slice]
    rows: list[slice]
    columns: list[slice]
    kept: Tensor
    dropped: Tensor

    @property
    def share(self) -> float:
        """Of the full product's operations, how much is done."""
        images = torch.tensor([group.stop - group.start for group in self.groups])
        by_group = self.kept.cpu().double().mean((1, 2))
        return float((images * by_group).sum() / max(1, int(images.sum())))

    def runs(self, row: int) -> Iterator[tuple[slice, list[slice]]]:
        """For each group that needs something of a row of tiles, the columns in whole runs."""
        for images, kept in zip(self.groups, self.kept[:, row].tolist(), strict=True):
            runs: list[slice] = []
            for columns, wanted in zip(self.columns, kept, strict=True):
                if wanted and runs and runs[-1].stop == columns.start:
                    runs[-1] = slice(runs[-1].start, columns.stop)
                elif wanted:
                    runs.append(columns)
            if runs:
                yield images, runs


@dataclass(frozen=True)
class Reference:
    """Typical weights of the half-states, (S_A,) and (S_B,), positive where any image has some."""

    weight_a: Tensor
    weight_b: Tensor

    @classmethod
    def of(cls, alpha: Tensor, beta: Tensor) -> "Reference":
        """That of some images' scaled scores, (N, S_A) and (N, S_B)."""
        return cls(alpha.sqrt().mean(0).square(), beta.sqrt().mean(0).square())


def popularity(reference: Reference, half_a: Half, half_b: Half, between: Tensor) -> list[Tensor]:
    """The orders of both halves' states, those that typically carry much mass first.

    The other half is taken at its mean, which is enough for an order.
    """
    weight_a, weight_b = reference.weight_a.double(), reference.weight_b.double()
    mean_a = weight_a @ half_a.states / weight_a.sum()
    mean_b = weight_b @ half_b.states / weight_b.sum()
    log_a = weight_a.log() + (half_a.states - 0.5) @ between @ (mean_b - 0.5)
    log_b = weight_b.log() + (half_b.states - 0.5) @ between.T @ (mean_a - 0.5)
    return [log.argsort(descending=True, stable=True) for log in (log_a, log_b)]


def dense_plan(num_images: int, shape: tuple[int, int], *, device: torch.device) -> Plan:
    """Everything for every image."""
    rows = _ranges(shape[0], max(1, _BLOCK // shape[1]))
    return Plan(
        order=None,
        groups=[slice(0, num_images)],
        rows=rows,
        columns=[slice(0, shape[1])],
        kept=torch.ones((1, len(rows), 1), dtype=torch.bool),
        dropped=torch.zeros(num_images, dtype=torch.float64, device=device),
    )


class Pruner:
    """Bounds the tiles of one kernel, whose half-states are sorted.

    Args:
        reference: in the same order as the kernel.
        tolerance: the share of an image's Z that may be left out.

    Cost: about two products of the kernel with one column, once.
    """

    def __init__(self, kernel: Kernel, reference: Reference, tolerance: float) -> None:
        self._kernel, self._tolerance = kernel, tolerance
        tiny = torch.finfo(torch.float32).tiny
        weight_a = reference.weight_a.clamp(min=tiny)
        weight_b = reference.weight_b.clamp(min=tiny)
        self._inverse_a, self._inverse_b = 1 / weight_a, 1 / weight_b
        self._rows, self._columns = (
            _ranges(size, max(_LEAST_TILE, size // _TILES)) for size in kernel.shape
        )
        num_columns = len(self._columns)
        spread = weight_b.new_zeros(kernel.shape[1], num_columns)
        for at, columns in enumerate(self._columns):
            spread[columns, at] = weight_b[columns]
        from_b, from_a = [], []
        for rows in self._rows:
            block = kernel.block(rows, torch.float32)
            from_b.append(block @ spread)
            from_a.append(weight_a[rows] @ block)
        self._from_b = from_b  # (K v_j)_a, by row of tiles (ta, columns)
        self._from_a = torch.stack(from_a)  # (w_i K)_b (rows, S_B)

    def plan(self, alpha: Tensor, beta: Tensor) -> Plan:
        """What to multiply for these images, scaled scores (N, S_A) and (N, S_B).

        Cost: 2 N (S_A + S_B) operations times the number of tiles along a half.
        """
        bounds = self._bounds(alpha, beta)
        first = self._kernel.block(self._rows[0], torch.float32)[:, self._columns[0]]
        least = ((alpha[:, self._rows[0]] @ first) * beta[:, self._columns[0]]).sum(-1).double()
        flat = bounds.flatten(1).double() * _ROUNDING
        rising = flat.sort(1)
        dropping = rising.values.cumsum(1) <= (self._tolerance * least / _ROUNDING)[:, None]
        kept = torch.ones_like(dropping).scatter(1, rising.indices, ~dropping)
        dropped = (rising.values * dropping).sum(1) / least.clamp(min=torch.finfo(least.dtype).tiny)
        order = kept.sum(1).argsort(stable=True)
        groups = _ranges(len(order), _GROUP)
        by_group = torch.stack([kept[order[group]].any(0) for group in groups])
        plan = Plan(
            order,
            groups,
            self._rows,
            self._columns,
            by_group.view(-1, *bounds.shape[1:]),
            dropped[order],
        )
        if plan.share > _DENSE:
            return dense_plan(len(alpha), self._kernel.shape, device=alpha.device)
        return plan

    def _bounds(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Of every tile's mass (N, rows, columns)."""
        by_a = torch.stack(
            [
                _over(alpha[:, rows], self._inverse_a[rows]) @ from_b
                for rows, from_b in zip(self._rows, self._from_b, strict=True)
            ],
            1,
        )
        by_b = torch.stack(
            [
                _over(beta[:, columns], self._inverse_b[columns]) @ self._from_a[:, columns].T
                for columns in self._columns
            ],
            2,
        )
        # roots first: the product may be too small for float32; what is no number is not known
        bounds = by_a.sqrt_().mul_(by_b.sqrt_())
        return bounds.nan_to_num_(torch.inf, torch.inf)


def _over(weights: Tensor, inverse: Tensor) -> Tensor:
    """weights^2 / reference, in an order that loses nothing to underflow."""
    return (weights * inverse).mul_(weights)


def _ranges(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
