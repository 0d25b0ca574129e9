"""Count marginals: each label together with each number of labels, as expected F1 needs them.

    count_marginals[n, i, s] = P(y_i = 1, |y| = s),      s = 0, ..., C - 1

No label set has more than C - 1 labels, which may be fewer than L, so that many labels of which
few are present at a time take little memory. The part for s = 0 is zero.
"""

import math

import torch
from torch import Tensor

_LOG_LOST = -40.0  # log of the largest total probability of the counts left out
_PART = 2**22  # largest number of sample entries per chunk


def count_marginals_from_samples(samples: Tensor) -> Tensor:
    """Return the shares among samples (S, N, L): float64 (N, L, C), C - 1 the largest count.

    Cost: O(S N L).
    """
    num_samples, num_images, num_labels = samples.shape
    counts = samples.sum(-1)
    width = int(counts.max()) + 1 if counts.numel() else 1
    total = torch.zeros(
        (num_images * width, num_labels), dtype=torch.float64, device=samples.device
    )
    place = torch.arange(num_images, device=samples.device) * width + counts
    size = max(1, _PART // max(1, num_images * num_labels))
    for part, where in zip(torch.split(samples, size), torch.split(place, size), strict=True):
        total.index_add_(0, where.reshape(-1), part.reshape(-1, num_labels).double())
    return total.reshape(num_images, width, num_labels).mT / num_samples


def count_marginals_if_independent(marginals: Tensor) -> Tensor:
    """Return the count marginals of independent labels: (N, L) -> float64 (N, L, C).

    The number of labels is Poisson binomial, f its probabilities; g those without label i:

        f_s = (1 - p_i) g_s + p_i g_{s-1},      P(y_i = 1, |y| = s) = p_i g_{s-1}

    f comes from adding labels in turn, g from solving the recursion for g, upwards where
    p_i <= 1/2 and downwards elsewhere, so that no error grows. Counts that Chernoff's bound
    shows to have less than e^-40 of probability together are left out.

    Cost: O(N L C).
    """
    p = marginals.double()
    width = _count_width(p)
    f = p.new_zeros(len(p), width)
    f[:, 0] = 1
    for label in range(p.shape[1]):
        q = p[:, label, None]
        with_it = q * f
        f = f - with_it
        f[:, 1:] += with_it[:, :-1]
    low, high, rare = p.clamp(max=0.5), p.clamp(min=0.5), p <= 0.5
    g = p.new_zeros(*p.shape, width)
    other = torch.zeros_like(p)
    for s in range(width):
        other = (f[:, s, None] - low * other) / (1 - low)
        g[..., s] = other
    other = torch.zeros_like(p)
    for s in range(width - 1, -1, -1):
        g[..., s] = torch.where(rare, g[..., s], other)
        other = (f[:, s, None] - (1 - high) * other) / high
    g = g.clamp_(min=0).mul_(p.unsqueeze(-1))
    return torch.cat([torch.zeros_like(g[..., :1]), g[..., :-1]], -1)


def count_probabilities(count_marginals: Tensor) -> Tensor:
    """Return P(|y| = s), float64 (N, C): sum_i P(y_i = 1, |y| = s) / s; the rest is for s = 0."""
    sizes = torch.arange(count_marginals.shape[-1], device=count_marginals.device)
    result = count_marginals.double().sum(1) / sizes.clamp(min=1)
    result[:, 0] = (1 - result[:, 1:].sum(1)).clamp(0, 1)
    return result


def empty_probability(count_marginals: Tensor) -> Tensor:
    """Return P(|y| = 0), one minus the probability of all other counts, float64 (N,)."""
    return count_probabilities(count_marginals)[:, 0]


def _count_width(p: Tensor) -> int:
    """Return C: the probability of that many labels or more is negligible for every image."""
    num_labels = p.shape[1]
    mean = float(p.sum(1).max()) if len(p) else 0.0
    for count in range(math.floor(mean) + 1, num_labels + 1):
        # P(|y| >= count) <= e^-mean (e mean / count)^count above the mean
        if not mean or count - mean + count * math.log(mean / count) < _LOG_LOST:
            return count
    return num_labels + 1
