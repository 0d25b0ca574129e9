"""The results of summing over all states: masses of half-states, by level of precision."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.inference.exact.pruning import TilePlan


@dataclass(frozen=True)
class Scores:
    """The inputs of the half-states' scores, for N images.

    Attributes:
        unary: float64 (N, L).
        known: 1, 0, -1 unknown (N, L).
    """

    unary: Tensor
    known: Tensor

    def rows(self, wanted: Tensor | slice) -> "Scores":
        """Return the scores of some of the images."""
        return Scores(self.unary[wanted], self.known[wanted])

    def __len__(self) -> int:
        return len(self.unary)


@dataclass(frozen=True)
class Linear:
    """The sums of some images at a level that is not log space.

    Attributes:
        images: their positions in the batch, int64 (n,).
        dtype: the level's type.
        total: Z, scaled, float64 (n,).
        plan: the tiles of the kernel that the images need; None for all.
        alpha, beta: the half-states' weights (n, S_A), (n, S_B); empty once they are freed.
        mass_a, mass_b: alpha * (K beta) and beta * (alpha K); likewise.
    """

    images: Tensor
    dtype: torch.dtype
    total: Tensor
    plan: TilePlan | None
    alpha: Tensor
    beta: Tensor
    mass_a: Tensor
    mass_b: Tensor

    def among(self, images: Tensor) -> "Linear":
        """Return the sums of some of the images, boolean (n,)."""
        arrays = (self.images, self.total, self.alpha, self.beta, self.mass_a, self.mass_b)
        some, total, *large = (array[images] for array in arrays)
        plan = self.plan and self.plan.among(images)
        return Linear(some, self.dtype, total, plan, *large)


@dataclass(frozen=True)
class Sums:
    """The results of summing over all states.

    Attributes:
        log_partition: float64 (N,).
        level: 0 float32, 1 float64, 2 log space, by image (N,).
        dropped: bound on the share of Z that was left out, float64 (N,).
        linear: the images of the levels before log space.
        logs: log-probabilities of the half-states, of A and of B, by image in log space.
    """

    log_partition: Tensor
    level: Tensor
    dropped: Tensor
    linear: list[Linear]
    logs: dict[int, tuple[Tensor, Tensor]]

    def masses(self, half: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the probabilities of one half's states (0 for A, 1 for B), some images at a time.

        Yields:
            images (n,), masses (n, S) and their divisors, float64 (n,).
        """
        for linear in self.linear:
            yield linear.images, (linear.mass_a, linear.mass_b)[half], linear.total
        yield from self.log_space_masses(half)

    def log_space_masses(self, half: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the same for the images in log space alone."""
        for image, logs in self.logs.items():
            one = logs[half].new_ones(1)
            yield torch.tensor([image], device=one.device), logs[half].exp()[None], one

    def without_arrays(self) -> "Sums":
        """Return the same without weights and masses, which is enough for `moments.pair_sums`."""
        none = torch.empty(0)
        linear = [
            replace(one, alpha=none, beta=none, mass_a=none, mass_b=none) for one in self.linear
        ]
        return replace(self, linear=linear)
