"""The most probable states, from the probabilities of half-states."""

import math

import torch
from torch import Tensor

from mlcrf.inference.split import Split
from mlcrf.inference.sums import Scores, Sums

_ROUNDING = 1e-6  # of a half-state's probability, and what underflow may hide of it
_AT_ONCE = 1024  # images


def best_states(split: Split, scores: Scores, sums: Sums) -> Tensor:
    """Complete half-states of A in falling order of probability until the best is certain.

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
    """Args: bound on the probability of each half-state of A (N, S_A)."""
    log_alpha = split.half_a.log_scores(scores.unary, scores.known) - split.constant
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
            joint = split.kernel.exponents(split.half_a.states[a]) + log_beta[part, None]
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
