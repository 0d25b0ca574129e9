"""Probabilities of pairs and of counts, image by image, from the same two halves.

Both need one more product of a half with the kernel for each label of the other half, or for each
number of labels that may be present in it.
"""

import torch
from torch import Tensor

from mlcrf.inference.halves import Half
from mlcrf.inference.split import Scores, Split, Sums


def pair_marginals(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """P(y_i = 1, y_j = 1) of every pair, the marginals on the diagonal: float64 (N, L, L).

    Cost: |B| products of S_A x S_B with N columns, 2 |B| N S_A S_B operations.
    """
    a, b = split.half_a.labels, split.half_b.labels
    num_labels = len(a) + len(b)
    result = scores.unary.new_zeros(len(scores), num_labels, num_labels)
    for which, half in enumerate((split.half_a, split.half_b)):
        for images, mass, total in sums.masses(which):
            for at, label in enumerate(half.labels.tolist()):
                present = (half.states[:, at, None] * half.states).to(mass)
                values = (mass @ present).double() / total[:, None]
                result[images[:, None], label, half.labels] = values
    for linear in sums.linear:
        scale = 1 / linear.total[:, None]
        for at, label in enumerate(b.tolist()):
            present = split.half_b.states[:, at].to(linear.beta)
            mass = split.to_a(linear.beta * present, linear.plan) * linear.alpha
            together = (mass @ split.half_a.states.to(mass)).double() * scale
            result[linear.images[:, None], a, label] = together
    for image in sums.logs:
        for rows, mass in split.joint(scores, sums, image):
            together = split.half_a.states[rows].T @ mass @ split.half_b.states
            result[image, a[:, None], b] += together
    result[:, b[:, None], a] = result[:, a[:, None], b].mT
    return result


def count_marginals(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """P(y_i = 1, |y| = s) of every label i and number s of labels present: (N, L, L + 1) float64.

    Cost: L + 2 products of S_A x S_B with N columns, 2 (L + 2) N S_A S_B operations.
    """
    half_a, half_b = split.half_a, split.half_b
    num_labels = len(half_a.labels) + len(half_b.labels)
    result = scores.unary.new_zeros(len(scores), num_labels, num_labels + 1)
    by_count_a, by_count_b = _by_count(half_a), _by_count(half_b)
    for linear in sums.linear:
        scale = 1 / linear.total[:, None]
        for count in range(len(half_a.labels) + 1):
            some = linear.alpha * (half_a.states.sum(1) == count)
            mass = split.to_b(some, linear.plan) * linear.beta
            _add(result, linear.images, half_b, count, mass, by_count_b, scale)
        for count in range(len(half_b.labels) + 1):
            some = linear.beta * (half_b.states.sum(1) == count)
            mass = split.to_a(some, linear.plan) * linear.alpha
            _add(result, linear.images, half_a, count, mass, by_count_a, scale)
    one = scores.unary.new_ones(1, 1)
    for image in sums.logs:
        which = torch.tensor([image], device=result.device)
        counts_a, counts_b = half_a.states.sum(1), half_b.states.sum(1)
        for rows, mass in split.joint(scores, sums, image):
            for count in range(len(half_a.labels) + 1):
                of_b = mass[counts_a[rows] == count].sum(0, keepdim=True)
                _add(result, which, half_b, count, of_b, by_count_b, one)
            for count in range(len(half_b.labels) + 1):
                of_a = scores.unary.new_zeros(1, len(half_a))
                of_a[0, rows] = mass[:, counts_b == count].sum(1)
                _add(result, which, half_a, count, of_a, by_count_a, one)
    return result


def _by_count(half: Half) -> Tensor:
    """Whether a state has a label, and how many in all, as columns (S, l * (l + 1))."""
    num_labels = half.states.shape[1]
    counts = half.states.sum(1).long()
    each = half.states.new_zeros(len(half), num_labels, num_labels + 1)
    each[torch.arange(len(half)), :, counts] = half.states
    return each.flatten(1)


def _add(
    result: Tensor,
    images: Tensor,
    half: Half,
    count: int,
    mass: Tensor,
    by_count: Tensor,
    scale: Tensor,
) -> None:
    """Add the masses of a half's states, met with `count` labels present in the other half."""
    size = len(half.labels)
    values = (mass @ by_count.to(mass)).double() * scale
    values = values.view(len(images), size, size + 1)
    target = result[images[:, None], half.labels]
    target[:, :, count : count + size + 1] += values
    result[images[:, None], half.labels] = target
