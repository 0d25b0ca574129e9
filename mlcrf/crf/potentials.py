"""Unaries and couplings of a batch of CRFs over label sets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.errors import PotentialsError

UNKNOWN = -1


@dataclass(frozen=True)
class Potentials:
    """A batch of fully specified CRFs over y in {0, 1}^L:

        log_score(y) = sum_i unary_i y_i + sum_{(i, j) in edges} pairwise_ij y_i y_j
        p(y) = exp(log_score(y)) / Z

    One number an edge is stored, so an asymmetric matrix or a non-zero diagonal cannot be
    written down.

    Attributes:
        unary: log-odds of each label on its own, floating point (N, L).
        edges: label pairs i < j, each once, int64 (E, 2).
        pairwise: coupling of each edge, > 0 attracts: (E,), or (N, E) if it varies by image.

    Raises:
        PotentialsError: shapes or types do not fit, an edge is not i < j < L or stands twice,
            or a value is not finite.
    """

    unary: Tensor
    edges: Tensor
    pairwise: Tensor

    def __post_init__(self) -> None:
        if self.unary.ndim != 2 or not self.unary.is_floating_point():
            raise PotentialsError(
                f"unary: expected floating point (N, L), got {self.unary.dtype} "
                f"{tuple(self.unary.shape)}"
            )
        num_images, num_labels = self.unary.shape
        if not num_labels:
            raise PotentialsError("unary: expected at least one label, got (N, 0)")
        num_edges = len(self.edges)
        if self.edges.shape != (num_edges, 2) or self.edges.dtype != torch.int64:
            raise PotentialsError(
                f"edges: expected int64 (E, 2), got {self.edges.dtype} {tuple(self.edges.shape)}"
            )
        if self.pairwise.shape not in ((num_edges,), (num_images, num_edges)):
            raise PotentialsError(
                f"pairwise: expected ({num_edges},) or ({num_images}, {num_edges}), "
                f"got {tuple(self.pairwise.shape)}"
            )
        if self.pairwise.dtype != self.unary.dtype:
            raise PotentialsError(
                f"pairwise: expected {self.unary.dtype} as unary, got {self.pairwise.dtype}"
            )
        if num_edges:
            first, second = self.edges[:, 0], self.edges[:, 1]
            if not bool(((first >= 0) & (first < second) & (second < num_labels)).all()):
                raise PotentialsError(f"edges: expected pairs i < j below {num_labels}")
            if len(torch.unique(first * num_labels + second)) != num_edges:
                raise PotentialsError("edges: a pair stands twice")
        for name, value in (("unary", self.unary), ("pairwise", self.pairwise)):
            if not bool(torch.isfinite(value).all()):
                raise PotentialsError(f"{name}: holds NaN or infinity")

    @property
    def num_images(self) -> int:
        """N."""
        return self.unary.shape[0]

    @property
    def num_labels(self) -> int:
        """L."""
        return self.unary.shape[1]

    @property
    def varies_by_image(self) -> bool:
        """Whether each image has couplings of its own."""
        return self.pairwise.ndim == 2

    def pairwise_matrix(self) -> Tensor:
        """The couplings as dense symmetric matrices with zero diagonal, (L, L) or (N, L, L)."""
        shape = (*self.pairwise.shape[:-1], self.num_labels, self.num_labels)
        first, second = self.edges[:, 0], self.edges[:, 1]
        upper = self.pairwise.new_zeros(shape)
        upper[..., first, second] = self.pairwise
        return upper + upper.mT

    def log_score(self, states: Tensor) -> Tensor:
        """Unnormalised log-probability of label vectors: (..., N, L) -> (..., N)."""
        y = states.to(self.unary.dtype)
        together = y[..., self.edges[:, 0]] * y[..., self.edges[:, 1]]
        return (self.unary * y).sum(-1) + (together * self.pairwise).sum(-1)

    def conditional_logits(self, states: Tensor) -> Tensor:
        """Log-odds of each label given all the others: (..., N, L) -> (..., N, L).

        Label i's own state has no influence on its entry. Real values in [0, 1] are taken as
        they are, which makes this the mean-field update too.
        """
        y = states.to(self.unary.dtype)
        matrix = self.pairwise_matrix()
        if self.varies_by_image:
            return self.unary + (matrix @ y.unsqueeze(-1)).squeeze(-1)
        return self.unary + y @ matrix

    def rows(self, wanted: Tensor | slice) -> "Potentials":
        """The CRFs of some of the images."""
        pairwise = self.pairwise[wanted] if self.varies_by_image else self.pairwise
        return Potentials(self.unary[wanted], self.edges, pairwise)


def full_edges(num_labels: int) -> Tensor:
    """All pairs i < j in row order, int64 (L (L - 1) / 2, 2)."""
    return torch.combinations(torch.arange(num_labels), 2).reshape(-1, 2)


def check_known(potentials: Potentials, known: Tensor | None) -> Tensor:
    """Known labels as an int64 tensor (N, L) of 1, 0 and -1 (unknown); all unknown if None.

    Raises:
        PotentialsError: wrong shape or another value.
    """
    if known is None:
        return torch.full(
            potentials.unary.shape, UNKNOWN, dtype=torch.int64, device=potentials.unary.device
        )
    if known.shape != potentials.unary.shape:
        raise PotentialsError(
            f"known: expected {tuple(potentials.unary.shape)}, got {tuple(known.shape)}"
        )
    if not bool(((known == 0) | (known == 1) | (known == UNKNOWN)).all()):
        raise PotentialsError("known: expected 1 (present), 0 (absent) or -1 (unknown)")
    return known.to(device=potentials.unary.device, dtype=torch.int64)
