"""Probabilities of pairs and of counts from the same two halves.

For each image, both need one more product of a half with the kernel for each label of the other
half, or for each number of labels present in it. For pairs summed over images, which a gradient
needs, one product is enough.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlcrf.inference.exact.halves import Half
from mlcrf.inference.exact.pruning import TilePlan
from mlcrf.inference.exact.split_enumeration import LEVELS, Split
from mlcrf.inference.exact.sums import Scores, Sums


def pair_marginals(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """Return P(y_i = 1, y_j = 1) of all pairs, marginals on the diagonal: float64 (N, L, L).

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
    return result.clamp_(0, 1)


def likely_pair_marginals(split: Split, scores: Scores, sums: Sums, leave_out: float) -> Tensor:
    """Return `pair_marginals` from the likely half-states of each image.

    The masses of half-states are exact; those that together carry at most a share `leave_out` are
    left out, and no result is off by more than twice that. A trained model of 24 labels keeps about
    300 of 4,096 in each half at 1e-3.

    Cost: S'_A S'_B operations per image for the S' half-states that are kept, one image at a
    time.
    """
    if not split.kernel.is_kept or sums.logs or any(one.plan for one in sums.linear):
        return pair_marginals(split, scores, sums)
    half_a, half_b = split.half_a, split.half_b
    order = torch.cat([half_a.labels, half_b.labels]).argsort()
    result = scores.unary.new_empty(len(scores), len(order), len(order))
    for linear in sums.linear:
        kernel = split.kernel.block(slice(0, len(half_a)), linear.dtype)
        for row, image in enumerate(linear.images.tolist()):
            a, b = (_likely(mass[row], leave_out / 2) for mass in (linear.mass_a, linear.mass_b))
            among = kernel.index_select(0, a).index_select(1, b).double()
            joint = linear.alpha[row, a, None].double() * among * linear.beta[row, b].double()
            on_a, on_b = half_a.states[a], half_b.states[b]
            across = on_a.T @ joint @ on_b
            first = on_a.T @ (joint.sum(1)[:, None] * on_a)
            second = on_b.T @ (joint.sum(0)[:, None] * on_b)
            pairs = torch.cat([torch.cat([first, across], 1), torch.cat([across.T, second], 1)])
            result[image] = (pairs / joint.sum())[order][:, order]
    return result.clamp_(0, 1)


def _likely(mass: Tensor, leave_out: float) -> Tensor:
    """Return the half-states (S',) that carry all but a share of the mass (S,)."""
    falling = mass.double().sort(descending=True)
    rest = falling.values.flip(0).cumsum(0).flip(0)  # mass of each half-state and all after it
    return falling.indices[rest > leave_out * rest[0]]


def pair_sums(split: Split, parts: Sequence[tuple[Scores, Sums, Tensor]]) -> Tensor:
    """Return sum_n weight_n P_n(y_i = 1, y_j = 1) for all pairs, diagonal included: (L, L).

    It follows from the weighted sum over images of the half-states' joint probabilities,

        K o sum_n (weight_n / Z_n) alpha_n beta_n^T

    Args:
        parts: scores of some images, their sums, arrays or not, and weights, float64 (N,).

    Cost: one product of S_A x N with N x S_B, 2 N S_A S_B operations.
    """
    a, b = split.half_a.labels, split.half_b.labels
    between = torch.zeros_like(split.between)
    by_state = [split.matrix.new_zeros(len(half)) for half in (split.half_a, split.half_b)]
    for dtype in LEVELS:
        linear = [
            (scores.rows(one.images), weight[one.images] / one.total, one.plan)
            for scores, sums, weight in parts
            for one in sums.linear
            if one.dtype is dtype
        ]
        for rows in split.kernel.blocks if linear else []:
            joint = _joint_mass(split, linear, rows, dtype)
            by_state[0][rows] += joint.sum(1).double()
            by_state[1] += joint.sum(0).double()
            on_b = (joint @ split.half_b.states.to(dtype)).double()
            between += split.half_a.states[rows].T @ on_b
    for scores, sums, weight in parts:
        for image in sums.logs:
            for rows, mass in split.joint(scores, sums, image):
                on_b = mass @ split.half_b.states
                between += weight[image] * (split.half_a.states[rows].T @ on_b)
        for which in (0, 1):
            for images, mass, _ in sums.log_space_masses(which):
                by_state[which] += weight[images] @ mass
    result = torch.zeros_like(split.matrix)
    for half, total in zip((split.half_a, split.half_b), by_state, strict=True):
        inside = half.states.T @ (total[:, None] * half.states)
        result[half.labels[:, None], half.labels] = inside
    result[a[:, None], b] = between
    result[b[:, None], a] = between.T
    return result


def _joint_mass(
    split: Split,
    parts: list[tuple[Scores, Tensor, TilePlan | None]],
    rows: slice,
    dtype: torch.dtype,
) -> Tensor:
    """Return some rows of K o sum_n scale_n alpha_n beta_n^T."""
    block = split.kernel.block(rows, dtype)
    mass = torch.zeros_like(block)
    for scores, scale, plan in parts:
        alpha, beta, _ = split.weights(scores, dtype)
        alpha = alpha[:, rows] * scale[:, None].to(dtype)
        if plan is None:
            mass.addmm_(alpha.T, beta)
            continue
        for some_a, some_b, images in plan.products:
            of_a, of_b = alpha[:, some_a], beta[:, some_b]
            if images is not None:
                of_a, of_b = of_a.index_select(0, images), of_b.index_select(0, images)
            mass[some_a, some_b].addmm_(of_a.T, of_b)
    return mass.mul_(block)


def count_marginals(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """Return P(y_i = 1, |y| = s) for every label i and count s, float64 (N, L, L + 1).

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
    """Return indicators of label i present and s labels in all, one column each (S, l (l + 1))."""
    num_labels = half.states.shape[1]
    counts = half.states.sum(1).long()
    each = half.states.new_zeros(len(half), num_labels, num_labels + 1)
    each[torch.arange(len(half), device=each.device), :, counts] = half.states
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
    """Add the masses of a half's states with `count` labels present in the other half."""
    size = len(half.labels)
    values = (mass @ by_count.to(mass)).double() * scale
    values = values.view(len(images), size, size + 1)
    target = result[images[:, None], half.labels]
    target[:, :, count : count + size + 1] += values
    result[images[:, None], half.labels] = target
