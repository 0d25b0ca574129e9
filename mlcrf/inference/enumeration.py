"""Exact inference for fully connected CRFs of up to about 28 labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference.exact.completion import best_states, draw_states
from mlcrf.inference.exact.moments import count_marginals, pair_marginals, pair_sums
from mlcrf.inference.exact.partition import count_states, split_labels
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.exact.sums import Scores
from mlcrf.inference.posterior import LogPartitionKind, Posterior

_CHUNK_ENTRIES = 2**23  # largest half-states x images per chunk
TYPICAL = 64  # number of images by which half-states are sorted
_LEAST_IMAGES, _LEAST_STATES = (
    512,
    2**22,
)  # at least this many: sorting half-states is worth its cost
_SLACK = 2e-7  # part of `leave_out` reserved for underflow and rounding of the bounds


@dataclass(frozen=True)
class Exact:
    """Sum over all 2^L label vectors by split enumeration.

    See `mlcrf.inference.exact.split_enumeration`.

        Z = sum_{a, b} alpha_a K_ab beta_b,      d log Z / d unary_i    = P(y_i = 1)
                                                 d log Z / d pairwise_ij = P(y_i = 1, y_j = 1)

    `log_partition` is differentiable once in both potentials by these identities; the marginals
    themselves carry no gradient. Any edge set is allowed; pairs without an edge have coupling 0.
    States that break an implication are never enumerated.

    For many images in float32, parts of the sum that provably carry less than a share `leave_out`
    of Z are left out (see `exact/pruning.py`). The posterior's `error_bound` is the share left out:
    no marginal, of a label or a pair, is off by more.

    Attributes:
        max_labels: refuse more than 2^max_labels states.
        pairwise_marginals: whether to return pairwise marginals too, at L / 4 times the cost.
        leave_out: largest share of Z to leave out; 0 sums everything.

    Cost: 4 N 2^L operations for log Z and marginals, half as much again for the gradient, a fifth
    to an eighth of that where much can be left out; N times a kernel of 2^L entries more where
    couplings vary by image. Memory: 4 bytes x 2^L up to 26 labels, less above (by blocks), and five
    arrays of up to 32 MB; up to 512 MB are kept for the next call. Deterministic.
    """

    max_labels: int = 28
    pairwise_marginals: bool = False
    leave_out: float = 1e-6

    @property
    def name(self) -> str:
        return "exact"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer exact marginals and log Z.

        Raises:
            TooManyLabelsError: more than 2^max_labels states.
        """
        clamped = self._check(potentials, known)
        log_partition, marginals, error_bound = _LogPartition.apply(
            potentials.unary, potentials.pairwise, potentials, clamped, self.leave_out
        )
        pairs = self._pairs(potentials, clamped) if self.pairwise_marginals else None
        return Posterior(
            marginals=marginals,
            log_partition=log_partition,
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            pairwise_marginals=pairs,
            error_bound=error_bound,
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors, exact up to ties within rounding, int64 (N, L).

        The probability of a half-state bounds that of every state with it, so half-states are
        completed in falling order of probability until none of the rest can hold the best.

        Cost: that of the marginals if one state is clearly the most probable, else up to N 2^L.
        """
        clamped = self._check(potentials, known)
        parts = [
            best_states(split, scores, split.sums(scores))
            for split, scores, _ in _chunks(potentials, clamped, self.leave_out)
        ]
        return torch.cat([clamped[:0], *parts])

    @torch.no_grad()
    def count_marginals(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return P(y_i = 1, |y| = s given x) of every label i and count s, (N, L, L + 1).

        Cost: L / 2 + 1 times that of the marginals.
        """
        clamped = self._check(potentials, known)
        parts = [
            count_marginals(split, scores, split.sums(scores)).to(potentials.unary.dtype)
            for split, scores, _ in _chunks(potentials, clamped, self.leave_out)
        ]
        shape = (0, potentials.num_labels, potentials.num_labels + 1)
        return torch.cat([potentials.unary.new_empty(shape), *parts])

    @torch.no_grad()
    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw independent exact samples, uint8 (num_samples, N, L).

        Cost: that of the marginals, and num_samples N 2^(L/2) operations of a matrix product.
        """
        clamped = self._check(potentials, known)
        parts = [
            draw_states(split, scores, split.sums(scores), num_samples, generator)
            for split, scores, _ in _chunks(potentials, clamped, self.leave_out)
        ]
        none = clamped.new_empty((num_samples, 0, potentials.num_labels), dtype=torch.uint8)
        return torch.cat([none, *parts], 1)

    @torch.no_grad()
    def _pairs(self, potentials: Potentials, known: Tensor) -> Tensor:
        result = torch.empty(potentials.num_images, len(potentials.edges)).to(potentials.unary)
        for split, scores, rows in _chunks(potentials, known, self.leave_out):
            pairs = pair_marginals(split, scores, split.sums(scores))
            of_edges = pairs[:, potentials.edges[:, 0], potentials.edges[:, 1]]
            result[rows] = of_edges.to(result.dtype)
        return result

    def check_size(self, potentials: Potentials) -> None:
        """Refuse more states than are allowed.

        Raises:
            TooManyLabelsError: more than 2^max_labels states.
        """
        log_states = count_states(potentials.num_labels, potentials.implications)
        if log_states > self.max_labels:
            raise TooManyLabelsError(
                f"exact inference over {potentials.num_labels} labels would enumerate "
                f"2**{math.ceil(log_states)} states; the limit is 2**{self.max_labels}. "
                "Use --inference gibbs or mean-field, or raise --max-exact-labels."
            )

    def _check(self, potentials: Potentials, known: Tensor | None) -> Tensor:
        self.check_size(potentials)
        return check_known(potentials, known)


class _LogPartition(torch.autograd.Function):
    """Log Z and marginals; the gradient of log Z is the marginals of labels and pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        unary: Tensor,
        pairwise: Tensor,
        potentials: Potentials,
        known: Tensor,
        leave_out: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_partition = torch.empty_like(unary[:, 0], dtype=torch.float64)
        error_bound = torch.empty_like(log_partition)
        marginals = torch.empty_like(unary)
        kept = []
        for split, scores, rows in _chunks(potentials, known, leave_out):
            sums = split.sums(scores)
            log_partition[rows] = sums.log_partition
            error_bound[rows] = sums.dropped
            marginals[rows] = split.marginals(sums).to(unary.dtype)
            if ctx.needs_input_grad[1]:
                kept.append((split, scores, sums.without_arrays(), rows))
        ctx.kept = kept
        ctx.edges, ctx.shape = potentials.edges, pairwise.shape
        ctx.save_for_backward(marginals)
        ctx.mark_non_differentiable(marginals, error_bound)
        return log_partition.to(unary.dtype), marginals, error_bound

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (marginals,) = ctx.saved_tensors
        pairwise_grad = grad.new_zeros(ctx.shape)
        varies = pairwise_grad.ndim == 2  # one split per image, or one shared by all chunks
        for kept in [[one] for one in ctx.kept] if varies else [ctx.kept]:
            parts = [(scores, sums, grad[rows].double()) for _, scores, sums, rows in kept]
            pairs = pair_sums(kept[0][0], parts) if kept else None
            if pairs is not None:
                of_edges = pairs[ctx.edges[:, 0], ctx.edges[:, 1]].to(pairwise_grad.dtype)
                pairwise_grad[kept[0][3] if varies else slice(None)] = of_edges
        return grad[:, None] * marginals, pairwise_grad, None, None, None


def sort_states(split: Split, unary: Tensor, known: Tensor, leave_out: float) -> None:
    """Let a split leave out up to a share of Z, sorted by some of these images; see `prune`."""
    if leave_out > _SLACK:
        typical = torch.linspace(0, len(unary) - 1, TYPICAL, device=unary.device).long()
        split.prune(unary[typical], known[typical], leave_out - _SLACK)


def _chunks(
    potentials: Potentials, known: Tensor, leave_out: float
) -> Iterator[tuple[Split, Scores, slice]]:
    """Yield images in groups that share a kernel and fit in memory; singly if couplings vary."""
    matrix = potentials.pairwise_matrix().detach()
    unary, rules = potentials.unary, potentials.implications
    first_level = int(unary.dtype == torch.float64)
    if potentials.varies_by_image:
        parts = split_labels(matrix.abs().mean(0), rules) if len(unary) else None
        for image in range(len(unary)):
            split = Split(matrix[image], rules, first_level=first_level, parts=parts)
            rows = slice(image, image + 1)
            yield split, split.scores(unary[rows], known[rows]), rows
        return
    split = Split(matrix, rules, first_level=first_level)
    worth_it = len(unary) >= _LEAST_IMAGES and split.num_states >= _LEAST_STATES
    if first_level == 0 and worth_it:
        sort_states(split, unary, known, leave_out)
    half_states = max(len(split.half_a), len(split.half_b))
    # larger chunks where the kernel is recomputed for each chunk
    entries = _CHUNK_ENTRIES if split.kernel.is_kept else 2 * _CHUNK_ENTRIES
    size = max(1, min(4096, entries // half_states))
    for start in range(0, len(unary), size):
        rows = slice(start, start + size)
        yield split, split.scores(unary[rows], known[rows]), rows
