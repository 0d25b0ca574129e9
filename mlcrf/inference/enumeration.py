"""Exact inference for fully connected CRFs of up to about 28 labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference.exact.all_states import MOST_LABELS, AllStates
from mlcrf.inference.exact.completion import best_states, draw_states
from mlcrf.inference.exact.conditioning import (
    Rest,
    add_known_counts,
    join_posteriors,
    split_by_known,
)
from mlcrf.inference.exact.differentiation import (
    LogPartition,
    Moments,
    last_derivative,
    log_partition_gradient,
    moments,
)
from mlcrf.inference.exact.moments import count_marginals, pair_marginals, pair_sums
from mlcrf.inference.exact.partition import count_states, split_labels
from mlcrf.inference.exact.shared_split import SharedSplit
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.exact.sums import Scores
from mlcrf.inference.posterior import LogPartitionKind, Posterior

_CHUNK_ENTRIES = 2**23  # largest half-states x images per chunk
TYPICAL = 64  # number of images by which half-states are sorted
_LEAST_IMAGES, _LEAST_STATES = (
    512,
    2**22,
)  # at least this many: sorting half-states is worth its cost
_OVERHEAD = 2**25  # the cost of a kernel of its own, however small, in states of an image
_KERNEL = 16  # the cost of an entry of a kernel, in states of an image
_SLACK = 2e-7  # part of `leave_out` reserved for underflow and rounding of the bounds


@dataclass(frozen=True)
class Exact:
    """Sum over all 2^L label vectors by split enumeration.

    See `mlcrf.inference.exact.split_enumeration`.

        Z = sum_{a, b} alpha_a K_ab beta_b,      d log Z / d unary_i    = P(y_i = 1)
                                                 d log Z / d pairwise_ij = P(y_i = 1, y_j = 1)

    `log_partition` is differentiable in both potentials by these identities. Up to 16 labels it is
    so twice, and marginals of labels and pairs once, by sums over all states that are made if they
    are asked for; above, marginals carry no gradient. Any edge set is allowed; pairs without an
    edge have coupling 0. Couplings that vary by image are summed for all images together up to 16
    labels, one after the other above.
    States that break an implication are never enumerated.

    Known labels are no part of the sum, image by image: 40 labels of which 25 are known are 15.
    Images that know the same labels, whatever their values, share a kernel. Where kernels of their
    own cost more than they save, images share one over all labels, and known labels are clamped.

    For many images in float32, parts of the sum that provably carry less than a share `leave_out`
    of Z are left out (see `exact/pruning.py`). The posterior's `error_bound` is the share left out:
    no marginal, of a label or a pair, is off by more.

    Attributes:
        max_labels: refuse more than 2^max_labels states of an image's unknown labels.
        pairwise_marginals: whether to return pairwise marginals too, at L / 4 times the cost.
        leave_out: largest share of Z to leave out; 0 sums everything.
        shared: kernel of the last call, which the next uses if its couplings are the same; None
            keeps none. See `sharing`.

    Cost: 4 N 2^L operations for log Z and marginals, half as much again for the gradient, a fifth
    to an eighth of that where much can be left out; N times a kernel of 2^L entries more where
    couplings vary by image. Memory: 4 bytes x 2^L up to 26 labels, less above (by blocks), and five
    arrays of up to 32 MB; up to 512 MB are kept for the next call. Deterministic.
    """

    max_labels: int = 28
    pairwise_marginals: bool = False
    leave_out: float = 1e-6
    shared: SharedSplit | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return "exact"

    def sharing(self) -> "Exact":
        """Return the same method for several calls with the same couplings, not thread-safe.

        Their kernel is computed once. What is left out of Z, never more than `leave_out`, then
        depends on the calls before.
        """
        return replace(self, shared=SharedSplit())

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer exact marginals and log Z.

        Raises:
            TooManyLabelsError: more than 2^max_labels states.
        """
        clamped = check_known(potentials, known)
        parts = [
            (rest, self._infer(rest.potentials, rest.known))
            for rest in self.split_by_known(potentials, clamped)
        ]
        return join_posteriors(potentials, clamped, parts)

    def _infer(self, potentials: Potentials, known: Tensor) -> Posterior:
        if potentials.varies_by_image and _is_small(potentials):
            return self._infer_together(potentials, known)
        log_partition, marginals, error_bound = _LogPartition.apply(
            potentials.unary, potentials.pairwise, potentials, known, self
        )
        pairs = self._pairs(potentials, known) if self.pairwise_marginals else None
        if log_partition.requires_grad and _is_small(potentials):
            inputs = potentials.unary.double(), potentials.pairwise.double()
            given = marginals.double(), marginals[:, :0] if pairs is None else pairs.double()
            sums = AllStates.of(potentials, known)
            marginals, of_edges = (
                one.to(marginals) for one in Moments.apply(*inputs, sums, *given)
            )
            pairs = None if pairs is None else of_edges
        return Posterior(
            marginals=marginals,
            log_partition=log_partition,
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            pairwise_marginals=pairs,
            error_bound=error_bound,
        )

    def _infer_together(self, potentials: Potentials, known: Tensor) -> Posterior:
        """Infer from couplings that vary by image, all images at once."""
        dtype, sums = potentials.unary.dtype, AllStates.of(potentials, known)
        inputs = potentials.unary.double(), potentials.pairwise.double()
        log_partition, marginals, pairs = LogPartition.apply(*inputs, sums, self.pairwise_marginals)
        marginals, pairs = Moments.apply(*inputs, sums, marginals, pairs)
        return Posterior(
            marginals=marginals.to(dtype),
            log_partition=log_partition.to(dtype),
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            pairwise_marginals=pairs.to(dtype) if self.pairwise_marginals else None,
            error_bound=torch.zeros_like(log_partition),
        )

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors, exact up to ties within rounding, int64 (N, L).

        The probability of a half-state bounds that of every state with it, so half-states are
        completed in falling order of probability until none of the rest can hold the best.

        Cost: that of the marginals if one state is clearly the most probable, else up to N 2^L.
        """
        clamped = check_known(potentials, known)
        best = clamped.clone()
        for rest in self.split_by_known(potentials, clamped):
            if potentials.varies_by_image and _is_small(rest.potentials):
                inputs = rest.potentials.unary.double(), rest.potentials.pairwise.double()
                sums = AllStates.of(rest.potentials, rest.known)
                parts = [sums.best(rows, *inputs) for rows in sums.parts]
            else:
                parts = [
                    best_states(split, scores, split.sums(scores))
                    for split, scores, _ in _chunks(rest.potentials, rest.known, self)
                ]
            best[rest.columns] = torch.cat([rest.known[:0], *parts])
        return best

    @torch.no_grad()
    def count_marginals(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return P(y_i = 1, |y| = s given x) of every label i and count s, (N, L, L + 1).

        Cost: L / 2 + 1 times that of the marginals.
        """
        clamped = check_known(potentials, known)
        num_images, num_labels = clamped.shape
        result = potentials.unary.new_zeros(num_images, num_labels, num_labels + 1)
        for rest in self.split_by_known(potentials, clamped):
            size = len(rest.labels)
            counts = potentials.unary.new_empty(len(rest.images), size, size + 1)
            for split, scores, rows in _chunks(rest.potentials, rest.known, self):
                counts[rows] = count_marginals(split, scores, split.sums(scores)).to(counts)
            result[rest.images] = add_known_counts(counts, rest, clamped)
        return result

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
        clamped = check_known(potentials, known)
        drawn = (clamped == 1).byte().repeat(num_samples, 1, 1)
        for rest in self.split_by_known(potentials, clamped):
            some = torch.empty((num_samples, *rest.known.shape)).to(drawn)
            for split, scores, rows in _chunks(rest.potentials, rest.known, self):
                sums = split.sums(scores)
                some[:, rows] = draw_states(split, scores, sums, num_samples, generator)
            drawn[:, *rest.columns] = some
        return drawn

    @torch.no_grad()
    def _pairs(self, potentials: Potentials, known: Tensor) -> Tensor:
        result = torch.empty(potentials.num_images, len(potentials.edges)).to(potentials.unary)
        for split, scores, rows in _chunks(potentials, known, self):
            pairs = pair_marginals(split, scores, split.sums(scores))
            of_edges = pairs[:, potentials.edges[:, 0], potentials.edges[:, 1]]
            result[rows] = of_edges.to(result.dtype)
        return result

    def split_by_known(
        self, potentials: Potentials, known: Tensor, *, kernel: int = _KERNEL
    ) -> list[Rest]:
        """Return the labels to enumerate, where known labels are left out if it pays.

        Args:
            known: closed under the rules (N, L).
            kernel: the cost of an entry of the kernel over all labels, in states of an image.

        Raises:
            TooManyLabelsError: more than 2^max_labels states of the unknown labels of an image.
        """
        log_states = count_states(potentials.num_labels, potentials.rules)
        too_many = log_states > self.max_labels

        def is_worth_it(num_images: int, num_left: int) -> bool:
            left = 2 ** min(num_left, log_states)
            alone = _OVERHEAD + left * (num_images + _KERNEL)
            together = 2**log_states * num_images * (1 + kernel / len(known))
            return too_many or alone < together

        parts = [Rest.whole(potentials, known)]
        if bool((known != UNKNOWN).any()) and is_worth_it(len(known), 0):
            parts = split_by_known(potentials, known, is_worth_it)
        for rest in parts:
            self._check_size(rest.potentials)
        return parts

    def _check_size(self, potentials: Potentials) -> None:
        log_states = count_states(potentials.num_labels, potentials.rules)
        if log_states > self.max_labels:
            raise TooManyLabelsError(
                f"exact inference over {potentials.num_labels} labels would enumerate "
                f"2**{math.ceil(log_states)} states; the limit is 2**{self.max_labels}. "
                "Use --inference gibbs or mean-field, or raise --max-exact-labels."
            )


class _LogPartition(torch.autograd.Function):
    """Log Z and marginals; the gradient of log Z is the marginals of labels and pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        unary: Tensor,
        pairwise: Tensor,
        potentials: Potentials,
        known: Tensor,
        method: Exact,
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_partition = torch.empty_like(unary[:, 0], dtype=torch.float64)
        error_bound = torch.empty_like(log_partition)
        marginals = torch.empty_like(unary)
        kept = []
        for split, scores, rows in _chunks(potentials, known, method):
            sums = split.sums(scores)
            log_partition[rows] = sums.log_partition
            error_bound[rows] = sums.dropped
            marginals[rows] = split.marginals(sums).to(unary.dtype)
            if ctx.needs_input_grad[1]:
                kept.append((split, scores, sums.without_arrays(), rows))
        ctx.kept = kept
        ctx.potentials, ctx.known = potentials, known
        ctx.save_for_backward(unary, pairwise, marginals)
        ctx.mark_non_differentiable(marginals, error_bound)
        return log_partition.to(unary.dtype), marginals, error_bound

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if not (torch.is_grad_enabled() and _is_small(ctx.potentials)):
            return (*_gradient(ctx, grad), None, None, None)
        unary, pairwise, _ = (one.double() for one in ctx.saved_tensors)
        beliefs = moments(unary, pairwise, AllStates.of(ctx.potentials, ctx.known))
        unary_grad, pairwise_grad = log_partition_gradient(grad.double(), *beliefs, pairwise)
        return unary_grad.to(grad), pairwise_grad.to(grad), None, None, None


@last_derivative(
    f"exact inference: log Z has a second derivative up to {MOST_LABELS} labels; use mean-field, "
    "or a junction tree where edges are few"
)
def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient in unaries and couplings of log Z weighted by `grad` (N,)."""
    _, pairwise, marginals = ctx.saved_tensors
    edges, pairwise_grad = ctx.potentials.edges, torch.zeros_like(pairwise)
    varies = pairwise_grad.ndim == 2  # one split per image, or one shared by all chunks
    for kept in [[one] for one in ctx.kept] if varies else [ctx.kept]:
        parts = [(scores, sums, grad[rows].double()) for _, scores, sums, rows in kept]
        pairs = pair_sums(kept[0][0], parts) if kept else None
        if pairs is not None:
            of_edges = pairs[edges[:, 0], edges[:, 1]].to(pairwise_grad.dtype)
            pairwise_grad[kept[0][3] if varies else slice(None)] = of_edges
    return grad[:, None] * marginals, pairwise_grad


def _is_small(potentials: Potentials) -> bool:
    return count_states(potentials.num_labels, potentials.rules) <= MOST_LABELS


def sort_states(split: Split, unary: Tensor, known: Tensor, leave_out: float) -> None:
    """Let a split leave out up to a share of Z, sorted by some of these images; see `prune`."""
    if leave_out > _SLACK:
        typical = torch.linspace(0, len(unary) - 1, TYPICAL, device=unary.device).long()
        split.prune(unary[typical], known[typical], leave_out - _SLACK)


def _chunks(
    potentials: Potentials, known: Tensor, method: Exact
) -> Iterator[tuple[Split, Scores, slice]]:
    """Yield images in groups that share a kernel and fit in memory; singly if couplings vary."""
    matrix = potentials.pairwise_matrix().detach()
    unary, rules = potentials.unary, potentials.rules
    first_level = int(unary.dtype == torch.float64)
    if potentials.varies_by_image:
        parts = split_labels(matrix.abs().mean(0), rules) if len(unary) else None
        for image in range(len(unary)):
            split = Split(matrix[image], rules, first_level=first_level, parts=parts)
            rows = slice(image, image + 1)
            yield split, split.scores(unary[rows], known[rows]), rows
        return
    if method.shared is None:
        split = Split(matrix, rules, first_level=first_level)
    else:
        split = method.shared.find(matrix, rules, first_level=first_level)
    worth_it = len(unary) >= _LEAST_IMAGES and split.num_states >= _LEAST_STATES
    if first_level == 0 and worth_it and not split.was_sorted:
        sort_states(split, unary, known, method.leave_out)
    half_states = max(len(split.half_a), len(split.half_b))
    # larger chunks where the kernel is recomputed for each chunk
    entries = _CHUNK_ENTRIES if split.kernel.is_kept else 2 * _CHUNK_ENTRIES
    size = max(1, min(4096, entries // half_states))
    for start in range(0, len(unary), size):
        rows = slice(start, start + size)
        yield split, split.scores(unary[rows], known[rows]), rows
