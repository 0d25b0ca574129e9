"""Averages over sampled states: marginals of labels and pairs, and log Z."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials, neighbours
from mlcrf.inference.gibbs.blocks_of_labels import Blocks
from mlcrf.inference.modes import iterated_conditional_modes

_DENSE_LABELS = 128  # up to this many labels, sums over neighbours are products with a matrix
_AT_ONCE = (
    2**19
)  # largest number of entries of an intermediate result, so that it stays in the cache


def pair_totals(left: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    """Sum left_i right_j over rows, for each edge: twice (M, L) -> (E,).

    Cost: O(M L^2) up to 128 labels, else O(M E).
    """
    first, second = edges[:, 0], edges[:, 1]
    num_labels = left.shape[1]
    if num_labels <= _DENSE_LABELS:
        return (left.T @ right)[first, second]
    order = (first * num_labels + second).argsort()
    starts = torch.searchsorted(first[order], torch.arange(num_labels + 1, device=first.device))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        wanted = torch.sparse_csr_tensor(
            starts,
            second[order],
            left.new_zeros(len(edges)),
            (num_labels, num_labels),
            check_invariants=False,
        )
    totals = torch.sparse.sampled_addmm(wanted, left.T.contiguous(), right.contiguous()).values()
    return torch.empty_like(totals).index_copy_(0, order, totals)


def conditional_means(potentials: Potentials, states: Tensor, known: Tensor) -> Tensor:
    """Average P(y_i = 1 | the others) over states (S, N, L): the marginals, (N, L)."""
    fields = Fields(potentials)
    total = torch.zeros_like(potentials.unary)
    for y in _parts(potentials, states):
        total += _conditionals(fields, y, known).sum(0)
    return total / len(states)


def conditional_pairs(potentials: Potentials, states: Tensor, known: Tensor) -> Tensor:
    """Average (y_i p_j + p_i y_j) / 2 over states (S, N, L), with p_i = P(y_i = 1 | the others).

    Both terms have the mean P(y_i = 1, y_j = 1), and vary less than y_i y_j. Returns (N, E).
    """
    fields = Fields(potentials)
    total = potentials.unary.new_zeros(potentials.num_images, len(potentials.edges))
    for y in _parts(potentials, states):
        p = _conditionals(fields, y, known)
        total += _together(y, p, potentials.edges) + _together(p, y, potentials.edges)
    return total / (2 * len(states))


def conditional_totals(potentials: Potentials, states: Tensor, known: Tensor) -> Tensor:
    """Sum `conditional_pairs` over images, without a row for each image: (E,)."""
    rows = _Rows.of(potentials)
    if rows is not None:
        return rows.pair_totals(states, known)[: len(potentials.edges)] / (2 * len(states))
    fields = Fields(potentials)
    total = potentials.unary.new_zeros(len(potentials.edges))
    for part in _parts(potentials, states):
        y, p = part.flatten(0, 1), _conditionals(fields, part, known).flatten(0, 1)
        total += pair_totals(y, p, potentials.edges) + pair_totals(p, y, potentials.edges)
    return total / (2 * len(states))


class LogPartition(NamedTuple):
    """An estimate of log Z.

    Attributes:
        value: the estimate (N,).
        best: the state y* that it was made at, int64 (N, L).
        log_steps: the log-probability of a sweep from each sample to y* (S, N).
    """

    value: Tensor
    best: Tensor
    log_steps: Tensor


def estimate_log_partition(potentials: Potentials, states: Tensor, known: Tensor) -> LogPartition:
    """Estimate log Z from the probability that one more sweep ends in the state y* (Chib 1995).

        log Z ~ log_score(y*) - log mean_s P(sweep takes y_s to y*)

    A sweep towards y* redraws label i when the labels before it have the values of y* and those
    after it of y_s, so all the probabilities of a sweep are computed together.

    Args:
        states: samples (S, N, L); y* is the likeliest of them, improved to a local maximum.
        known: 1, 0 or -1 for unknown (N, L).
    """
    if potentials.rules.limits:
        return _estimate_by_blocks(potentials, states, known)
    fields, rows = Fields(potentials), _Rows.of(potentials)
    best = iterated_conditional_modes(
        potentials, _likeliest(potentials, fields, rows, states), known
    )
    end = best.to(potentials.unary.dtype)
    before = fields.all(end) - fields.later(end)
    free, sign = known == UNKNOWN, 2 * end - 1
    if rows is not None:
        alone = (F.logsigmoid(sign * before) * free).sum(-1)
        steps = rows.log_steps(states, before, sign, free, alone)
    else:
        each = [
            (F.logsigmoid(sign * (before + fields.later(y))) * free).sum(-1)
            for y in _parts(potentials, states)
        ]
        steps = torch.cat(each)
    mean = steps.logsumexp(0) - math.log(len(states))
    return LogPartition(potentials.log_score(best) - mean, best, steps)


def _estimate_by_blocks(potentials: Potentials, states: Tensor, known: Tensor) -> LogPartition:
    """Estimate log Z from sweeps that redraw the labels of limits together."""
    blocks = Blocks(potentials, known)
    scores = torch.cat([potentials.log_score(y) for y in _parts(potentials, states)])
    likeliest = scores.argmax(0)
    best = blocks.improve(states[likeliest, torch.arange(len(likeliest), device=likeliest.device)])
    steps = torch.cat([blocks.log_steps(y, best) for y in _parts(potentials, states)])
    mean = steps.logsumexp(0) - math.log(len(states))
    return LogPartition(potentials.log_score(best) - mean, best, steps)


def _likeliest(
    potentials: Potentials, fields: Fields, rows: "_Rows | None", states: Tensor
) -> Tensor:
    if rows is not None:
        scores = rows.scores(states)
    else:
        parts = _parts(potentials, states)
        scores = torch.cat([((potentials.unary + fields.later(y)) * y).sum(-1) for y in parts])
    first = scores.argmax(0)
    return states[first, torch.arange(len(first), device=first.device)].long()


class _Rows(NamedTuple):
    """Neighbours of many labels, for sums over present labels only.

    Attributes:
        unary: (N, L).
        starts, others, edge: compressed rows; weights: the coupling to each neighbour (2 E,).
        num_edges: E.
    """

    unary: Tensor
    starts: Tensor
    others: Tensor
    edge: Tensor
    weights: Tensor
    num_edges: int

    @classmethod
    def of(cls, potentials: Potentials) -> "_Rows | None":
        """Return None up to 128 labels, with limits, by-image couplings, and off the CPU."""
        small = potentials.num_labels <= _DENSE_LABELS or potentials.rules.limits
        if small or potentials.varies_by_image or potentials.unary.device.type != "cpu":
            return None
        coupled = potentials.as_couplings()
        starts, others, edge = neighbours(coupled.edges, coupled.num_labels)
        weights = coupled.pairwise.detach()[edge]
        unary = coupled.unary.detach()
        return cls(unary, starts, others, edge, weights, len(coupled.edges))

    def pair_totals(self, states: Tensor, known: Tensor) -> Tensor:
        """Sum y_i p_j + p_i y_j over states (S, N, L) for each edge (E,)."""
        from mlcrf.inference.gibbs.sample_kernels import pair_sums

        totals = torch.zeros(self.num_edges, dtype=torch.float64)
        arrays = (self.unary, known.to(torch.int8), self.starts, self.others, self.edge)
        pair_sums(_array(states), *map(_array, (*arrays, self.weights, totals)))
        return totals.to(self.unary.dtype)

    def scores(self, states: Tensor) -> Tensor:
        """Return the log-scores of states (S, N, L), (S, N)."""
        from mlcrf.inference.gibbs.sample_kernels import scores

        result = torch.zeros(states.shape[:2], dtype=torch.float64)
        arrays = (self.unary, self.starts, self.others, self.weights, result)
        scores(_array(states), *map(_array, arrays))
        return result

    def log_steps(
        self, states: Tensor, before: Tensor, sign: Tensor, free: Tensor, alone: Tensor
    ) -> Tensor:
        """Return the log-probability of a sweep from each state (S, N, L) to one end, (S, N).

        Args: as `sample_kernels.log_steps`; alone: sums where no label is present.
        """
        from mlcrf.inference.gibbs.sample_kernels import log_steps

        result = alone.double().repeat(len(states), 1)
        arrays = (before, sign, free, self.starts, self.others, self.weights, result)
        log_steps(_array(states), *map(_array, arrays))
        return result.to(self.unary.dtype)


def _array(values: Tensor) -> Any:
    return values.contiguous().numpy()


def _conditionals(fields: Fields, y: Tensor, known: Tensor) -> Tensor:
    return torch.where(known == UNKNOWN, fields.all(y).sigmoid(), known.to(y.dtype))


def _together(left: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    """Sum left_i right_j over states for each edge: twice (S, N, L) -> (N, E)."""
    first, second = edges[:, 0], edges[:, 1]
    if left.shape[-1] <= _DENSE_LABELS:
        return (left.permute(1, 2, 0) @ right.transpose(0, 1))[:, first, second]
    at_once = max(1, _AT_ONCE // max(1, left.shape[1] * len(edges)))
    total = left.new_zeros(left.shape[1], len(edges))
    parts = zip(torch.split(left, at_once), torch.split(right, at_once), strict=True)
    for one, other in parts:
        total += (one[..., first] * other[..., second]).sum(0)
    return total


def _parts(potentials: Potentials, states: Tensor) -> Iterator[Tensor]:
    """Yield states in the potentials' type, as many at once as intermediate results allow."""
    wide = potentials.num_labels > _DENSE_LABELS
    size = max(potentials.num_labels, len(potentials.edges) if wide else 1)
    at_once = max(1, _AT_ONCE // max(1, potentials.num_images * size))
    for part in torch.split(states, at_once):
        yield part.to(potentials.unary.dtype)
