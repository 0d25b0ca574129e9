"""What is averaged over sampled states: marginals of labels and pairs, and log Z."""

import math
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials
from mlcrf.inference.posterior import climb

_DENSE_LABELS = 128  # up to here sums over neighbours are products with a matrix
_AT_ONCE = 2**19  # numbers that an intermediate result may hold: they stay in the cache


def pair_totals(left: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    """Sum over rows of left_i right_j for each edge: twice (M, L) -> (E,).

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
    """Mean of P(y_i = 1 | the others) over states (S, N, L): the marginals, (N, L)."""
    fields = Fields(potentials)
    total = torch.zeros_like(potentials.unary)
    for y in _parts(potentials, states):
        total += _conditionals(fields, y, known).sum(0)
    return total / len(states)


def conditional_pairs(potentials: Potentials, states: Tensor, known: Tensor) -> Tensor:
    """Mean of (y_i p_j + p_i y_j) / 2 over states (S, N, L), with p_i = P(y_i = 1 | the others).

    Both terms have the mean P(y_i = 1, y_j = 1), and vary less than y_i y_j. (N, E).
    """
    fields = Fields(potentials)
    total = potentials.unary.new_zeros(potentials.num_images, len(potentials.edges))
    for y in _parts(potentials, states):
        p = _conditionals(fields, y, known)
        total += _together(y, p, potentials.edges) + _together(p, y, potentials.edges)
    return total / (2 * len(states))


def conditional_totals(potentials: Potentials, states: Tensor, known: Tensor) -> Tensor:
    """`conditional_pairs` summed over images, which needs no row an image: (E,)."""
    fields = Fields(potentials)
    total = potentials.unary.new_zeros(len(potentials.edges))
    for part in _parts(potentials, states):
        y, p = part.flatten(0, 1), _conditionals(fields, part, known).flatten(0, 1)
        total += pair_totals(y, p, potentials.edges) + pair_totals(p, y, potentials.edges)
    return total / (2 * len(states))


def estimate_log_partition(
    potentials: Potentials, states: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Log Z from the chance that one more sweep ends in the likeliest state y* (Chib 1995).

        log Z ~ log_score(y*) - log mean_s P(sweep takes y_s to y*)

    A sweep towards y* redraws label i when those before it have the values of y* and those after
    it of y_s, so all the probabilities of a sweep are to be had at once.

    Args:
        states: samples (S, N, L); the likeliest of them is climbed from to find y*.
        known: 1, 0 or -1 for unknown (N, L).

    Returns:
        The estimate (N,), and y*, int64 (N, L).
    """
    fields = Fields(potentials)
    best = climb(potentials, _likeliest(potentials, fields, states), known)
    end = best.to(potentials.unary.dtype)
    before = fields.all(end) - fields.later(end)
    free, sign = known == UNKNOWN, 2 * end - 1
    steps = [
        (F.logsigmoid(sign * (before + fields.later(y))) * free).sum(-1)
        for y in _parts(potentials, states)
    ]
    mean = torch.cat(steps).logsumexp(0) - math.log(len(states))
    return potentials.log_score(best) - mean, best


def _likeliest(potentials: Potentials, fields: Fields, states: Tensor) -> Tensor:
    scores = torch.cat(
        [((potentials.unary + fields.later(y)) * y).sum(-1) for y in _parts(potentials, states)]
    )
    first = scores.argmax(0)
    return states[first, torch.arange(len(first), device=first.device)].long()


def _conditionals(fields: Fields, y: Tensor, known: Tensor) -> Tensor:
    return torch.where(known == UNKNOWN, fields.all(y).sigmoid(), known.to(y.dtype))


def _together(left: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    """Sum over states of left_i right_j for each edge: twice (S, N, L) -> (N, E)."""
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
    """States in the potentials' type, as many at once as intermediate results allow."""
    wide = potentials.num_labels > _DENSE_LABELS
    size = max(potentials.num_labels, len(potentials.edges) if wide else 1)
    at_once = max(1, _AT_ONCE // max(1, potentials.num_images * size))
    for part in torch.split(states, at_once):
        yield part.to(potentials.unary.dtype)
