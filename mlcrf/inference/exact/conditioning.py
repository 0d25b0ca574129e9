"""Conditioning on known labels: the CRFs of the labels that are left.

Given known labels y_K, the others are again a CRF, of fewer labels:

    unary_i + sum_{k in K} pairwise_ik y_k,      pairwise_ij,      log Z = log_score(y_K) + log Z'

Images that know the same labels, whatever their values, are computed together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference.posterior import Posterior
from mlcrf.rules import Rules


@dataclass(frozen=True)
class Rest:
    """The labels that are left, of images that know the same other labels.

    Attributes:
        images: positions in the batch, int64 (n,).
        labels: the labels that are left, int64 (l,).
        edges: positions of the edges between them (E',).
        potentials: their CRFs given the other labels, (n, l).
        known: what is known of the labels that are left (n, l).
        log_score: score of the other labels (n,).
    """

    images: Tensor
    labels: Tensor
    edges: Tensor
    potentials: Potentials
    known: Tensor
    log_score: Tensor

    @classmethod
    def whole(cls, potentials: Potentials, known: Tensor) -> "Rest":
        """Return all labels of all images, with what is known of them."""
        num_images, num_labels = known.shape
        return cls(
            torch.arange(num_images, device=known.device),
            torch.arange(num_labels, device=known.device),
            torch.arange(len(potentials.edges), device=known.device),
            potentials,
            known,
            potentials.unary.new_zeros(num_images),
        )

    @property
    def columns(self) -> tuple[Tensor, Tensor]:
        """The place of images and labels in the batch, as an index."""
        return self.images[:, None], self.labels


def condition(potentials: Potentials, known: Tensor, images: Tensor, labels: Tensor) -> Rest:
    """Return the CRFs of some labels of some images given the others, which are known.

    Differentiable in both potentials. Sums are made in float64.

    Args:
        known: 1, 0 and -1, closed under the rules (N, L).
        images, labels: positions, rising, int64 (n,), (l,).
    """
    left = torch.zeros_like(known[0], dtype=torch.bool).index_fill(0, labels, value=True)
    first, second = potentials.edges.T
    dtype = potentials.unary.dtype
    unary, pairwise = potentials.unary[images].double(), potentials.pairwise.double()
    if potentials.varies_by_image:
        pairwise = pairwise[images]
    y = ((known[images] == 1) & ~left).double()
    crossing = left[first] != left[second]
    inner = torch.where(left[first], first, second)[crossing]
    outer = torch.where(left[first], second, first)[crossing]
    shifted = unary.index_add(1, inner, y[:, outer] * pairwise[..., crossing])
    kept = (left[first] & left[second]).nonzero().squeeze(1)
    columns, told = labels.tolist(), known[images]
    rules = potentials.rules
    if len(images):
        rules = rules.given(told[0].tolist(), columns)
    place = left.cumsum(0) - 1
    return Rest(
        images,
        labels,
        kept,
        Potentials(
            shifted[:, labels].to(dtype),
            place[potentials.edges[kept]],
            pairwise[..., kept].to(dtype),
            rules,
        ),
        known[images][:, labels],
        (
            (unary * y).sum(1)
            + (y[:, first] * y[:, second] * pairwise).sum(1)
            - _settled_costs(potentials.rules, y, columns)
        ).to(dtype),
    )


def _settled_costs(rules: Rules, y: Tensor, left: list[int]) -> Tensor:
    """Return what soft limits cost whose answer the labels that are left cannot change (n,).

    Args:
        y: 1 where a label that is not left is present, else 0 (n, L).
    """
    cost = torch.zeros_like(y[:, 0])
    for limit in rules.limits:
        if limit.weight is None or not len(y):
            continue
        present = y[:, list(limit.labels)].sum(1)
        if limit.given(int(present[0]), left) is None or set(left).isdisjoint(limit.labels):
            cost += limit.weight * limit.is_broken(present).to(cost)
    return cost


def pattern(rules: Rules, known: Tensor) -> Tensor:
    """Return rows (N, K) that are equal for images whose other labels are under the same rules.

    They know the same labels, and as many labels are present of every group that has others left.

    Args:
        known: 1, 0 and -1, closed under the rules (N, L).
    """
    columns = [(known != UNKNOWN).long()]
    whole = (known != UNKNOWN).all(1)  # where a label is left that is known, because one must be
    for limit in rules.limits:
        group = known[:, list(limit.labels)]
        is_open = (group == UNKNOWN).any(1) | whole
        columns.append(((group == 1).sum(1) * is_open)[:, None])
    return torch.cat(columns, 1)


def split_by_known(
    potentials: Potentials, known: Tensor, is_worth_it: Callable[[int, int], bool]
) -> list[Rest]:
    """Return what is left of all images, by the labels that they know.

    Args:
        known: 1, 0 and -1, closed under the rules (N, L).
        is_worth_it: called with the number of images that know the same labels and the number of
            labels left; where it says no, images keep all their labels, and are one group.

    Cost: O(N L log N), and O(N E).
    """
    patterns, group = torch.unique(pattern(potentials.rules, known), dim=0, return_inverse=True)
    whole: list[Tensor] = []
    found = []
    for number, is_known in enumerate(patterns[:, : known.shape[1]] == 1):
        images = (group == number).nonzero().squeeze(1)
        labels = (~is_known).nonzero().squeeze(1)
        if not is_known.any() or not is_worth_it(len(images), len(labels)):
            whole.append(images)
            continue
        if not len(labels):  # a CRF has a label
            labels = labels.new_zeros(1)
        found.append(condition(potentials, known, images, labels))
    if whole and not found:
        return [Rest.whole(potentials, known)]
    if whole:
        everything = torch.arange(potentials.num_labels, device=known.device)
        images = torch.cat(whole).sort().values
        found.append(condition(potentials, known, images, everything))
    return found


def add_known_counts(counts: Tensor, rest: Rest, known: Tensor) -> Tensor:
    """Return P(y_i = 1, |y| = s) of all labels from those of the labels that are left.

    Args:
        counts: (n, l, l + 1).
        known: of all images (N, L).

    Returns:
        (n, L, L + 1).
    """
    num_images, num_labels = len(counts), known.shape[1]
    if len(rest.labels) == num_labels:
        return counts
    present = (known[rest.images] == 1).index_fill(1, rest.labels, value=False)
    sizes = torch.arange(counts.shape[2], device=counts.device)
    of_size = counts.sum(1) / sizes.clamp(min=1)  # P(|y| = s) of the labels that are left
    of_size[:, 0] = 1 - of_size[:, 1:].sum(1)
    by_label = (present[:, :, None] * of_size[:, None]).index_copy(1, rest.labels, counts)
    moved = present.sum(1)[:, None, None] + sizes
    result = counts.new_zeros(num_images, num_labels, num_labels + 1)
    return result.scatter(2, moved.expand_as(by_label), by_label)


def join_posteriors(
    potentials: Potentials, known: Tensor, parts: list[tuple[Rest, Posterior]]
) -> Posterior:
    """Return the posterior of all images from those of the labels that are left, in any order."""
    if parts[0][0].potentials is potentials:
        return parts[0][1]
    marginals = known.to(potentials.unary.dtype)
    log_partition = marginals.new_zeros(len(known))
    converged = torch.zeros_like(log_partition, dtype=torch.bool)
    bounds = torch.zeros_like(log_partition, dtype=torch.float64)
    for rest, one in parts:
        marginals = marginals.index_put(rest.columns, one.marginals)
        log_partition = log_partition.index_put((rest.images,), one.log_partition + rest.log_score)
        converged[rest.images] = one.converged
        if one.error_bound is not None:
            bounds[rest.images] = one.error_bound
    first, second = potentials.edges.T
    pairs = marginals[:, first] * marginals[:, second]  # right where a label is known
    for rest, one in parts:
        if one.pairwise_marginals is not None:
            pairs = pairs.index_put((rest.images[:, None], rest.edges), one.pairwise_marginals)
    _, any_part = parts[0]
    return replace(
        any_part,
        marginals=marginals,
        log_partition=log_partition,
        converged=converged,
        pairwise_marginals=None if any_part.pairwise_marginals is None else pairs,
        error_bound=None if any_part.error_bound is None else bounds,
    )
