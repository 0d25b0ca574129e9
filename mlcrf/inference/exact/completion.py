"""The most probable states, and samples: half-states of A, completed with half-states of B."""

import math

import torch
from torch import Tensor

from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.exact.sums import Scores, Sums

_ROUNDING = 1e-6  # error of the probability of a half-state, including underflow
_AT_ONCE = 1024  # images per chunk
_ENTRIES = 2**22  # largest number of probabilities of quarter-states in memory
_IN_RANGE = 300.0  # largest exponent that is summed outside of log space


def best_states(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """Complete half-states of A in falling order of probability, until the best state is certain.

    Returns:
        Label vectors, int64 (N, L).
    """
    result = torch.empty_like(scores.known)
    for images, mass, total in sums.masses(0):
        hidden = sums.dropped[images] + _ROUNDING
        for part in torch.split(torch.arange(len(images), device=images.device), _AT_ONCE):
            bound = mass[part].double() / total[part, None] * (1 + 1e-5) + hidden[part, None]
            some = scores.rows(images[part])
            result[images[part]] = _complete(split, some, bound, sums.log_partition[images[part]])
    return result


def _complete(split: Split, scores: Scores, bound: Tensor, log_partition: Tensor) -> Tensor:
    """Complete half-states, given a bound on the probability of each one of A (N, S_A)."""
    log_alpha = split.half_a.log_scores(scores.unary, scores.known)
    log_beta = split.half_b.log_scores(scores.unary, scores.known)
    falling = bound.sort(descending=True, dim=1)
    order, log_bound = falling.indices, falling.values.log()
    best_log_prob = torch.full_like(log_partition, -math.inf)
    best_a = torch.zeros_like(order[:, 0])
    best_b = torch.zeros_like(best_a)
    done, step = 0, 4
    active = torch.arange(len(scores), device=order.device)
    while len(active) and done < order.shape[1]:
        for part in torch.split(active, max(1, 2**22 // (step * len(split.half_b)))):
            a = order[part, done : done + step]
            joint = split.kernel.couplings(split.half_a.states[a]) + log_beta[part, None]
            value, b = joint.max(-1)
            value = value + log_alpha[part].gather(1, a) - log_partition[part, None]
            top, which = value.max(-1)
            better = top > best_log_prob[part]
            changed = part[better]
            best_log_prob[changed] = top[better]
            best_a[changed] = a.gather(1, which[:, None]).squeeze(1)[better]
            best_b[changed] = b.gather(1, which[:, None]).squeeze(1)[better]
        done, step = done + step, step * 4
        if done < order.shape[1]:
            active = active[log_bound[active, done] > best_log_prob[active]]
    return split.states(best_a, best_b)


def draw_states(
    split: Split, scores: Scores, sums: Sums, num_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw independent samples: a half-state of A, then the quarters of B given it.

    Returns:
        Label vectors, uint8 (num_samples, N, L).

    Cost: N S_A operations, and num_samples N S_B at the speed of a matrix product; of exponentials
    where limits lie across the parts.
    """
    if split.across.limits or not split.half_b.is_product:
        return _draw_halves(split, scores, sums, num_samples, generator)
    first, second = quarters = split.half_b.quarters
    sizes = [len(quarter.labels) for quarter in quarters]
    coupled = split.matrix[first.labels][:, second.labels]
    joint = first.states @ coupled @ second.states.T
    # the contribution of each half-state of A to the scores of the quarters' states
    given_a = [
        split.half_a.states @ part @ quarter.states.T
        for part, quarter in zip(torch.split(split.between, sizes, 1), quarters, strict=True)
    ]
    drawn = torch.empty((num_samples, *scores.known.shape), dtype=torch.uint8, device=joint.device)
    in_range = float(joint.abs().max()) <= _IN_RANGE
    entries = num_samples * (len(first) + len(second) if in_range else len(split.half_b))
    for images, mass, _ in sums.masses(0):
        everyone = torch.arange(len(images), device=images.device)
        for part in torch.split(everyone, max(1, _ENTRIES // entries)):
            wanted = images[part]
            a = torch.multinomial(mass[part], num_samples, replacement=True, generator=generator)
            some = scores.rows(wanted)
            by_first, by_second = (
                (quarter.log_scores(some.unary, some.known)[:, None] + added[a]).flatten(0, 1)
                for quarter, added in zip(quarters, given_a, strict=True)
            )
            by_first += _log_sums(by_second, joint, in_range=in_range)
            b_first = _draw(by_first.softmax(1), generator)
            by_second += joint[b_first]
            b_second = _draw(by_second.softmax(1), generator)
            for labels, states in (
                (split.half_a.labels, split.half_a.states[a.flatten()]),
                (first.labels, first.states[b_first]),
                (second.labels, second.states[b_second]),
            ):
                by_image = states.view(len(wanted), num_samples, -1).transpose(0, 1).byte()
                drawn[:, wanted[:, None], labels] = by_image
    return drawn


def _draw_halves(
    split: Split, scores: Scores, sums: Sums, num_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw a half-state of A, then one of B given it; see `draw_states`."""
    size = num_samples, *scores.known.shape
    drawn = torch.empty(size, dtype=torch.uint8, device=scores.known.device)
    at_once = max(1, _ENTRIES // len(split.half_b))
    for images, mass, _ in sums.masses(0):
        some = scores.rows(images)
        log_beta = split.half_b.log_scores(some.unary, some.known)
        for row, image in enumerate(images.tolist()):
            a = torch.multinomial(mass[row], num_samples, replacement=True, generator=generator)
            b = [
                _draw((split.kernel.couplings(part) + log_beta[row]).softmax(1), generator)
                for part in torch.split(split.half_a.states[a], at_once)
            ]
            drawn[:, image] = split.states(a, torch.cat(b)).byte()
    return drawn


def _log_sums(scores: Tensor, joint: Tensor, *, in_range: bool) -> Tensor:
    """Return log sum_b exp(scores_nb + joint_ab): (M, S_2), (S_1, S_2) -> (M, S_1)."""
    if not in_range:
        return (scores[:, None] + joint).logsumexp(-1)
    top = scores.amax(1, keepdim=True)
    return ((scores - top).exp() @ joint.T.exp()).log_().add_(top)


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a column of each row by its probability (M,), faster than `multinomial`."""
    reached = probabilities.cumsum(1)
    threshold = torch.rand(
        (len(reached), 1), dtype=reached.dtype, device=reached.device, generator=generator
    )
    return torch.searchsorted(reached, threshold * reached[:, -1:], right=True).squeeze(1)
