"""The part of limits in log-odds and scores, for label vectors and for independent labels."""

import torch
from torch import Tensor

from mlcrf.rules import Limit

IMPOSSIBLE = 100.0  # log-odds against a state that breaks a hard rule: e^-100 of the others


def cost_of(limit: Limit) -> float:
    """Return what a method that does not drop states takes from the score of sets that break it."""
    return IMPOSSIBLE if limit.weight is None else limit.weight


def limit_fields(limits: tuple[Limit, ...], y: Tensor) -> Tensor:
    """Return what limits add to the log-odds of each label given the others: (..., N, L), same.

        cost (P(least - 1 of the others are present) - P(most of the others are present))

    For label vectors the probabilities are 0 or 1. Real values are probabilities of independent
    labels, as in mean field.

    Cost: O(n^2) for each limit on n labels.
    """
    result = torch.zeros_like(y)
    for limit in limits:
        p = y[..., list(limit.labels)]
        before, after = _counts(p), _counts(p.flip(-1))[::-1]
        fields = [
            cost_of(limit)
            * (_of_sum(one, other, limit.least - 1) - _of_sum(one, other, limit.most))
            for one, other in zip(before, after[1:], strict=False)
        ]
        labels = torch.tensor(limit.labels, device=y.device)
        result = result.index_add(-1, labels, torch.stack(fields, -1))
    return result


def limit_costs(limits: tuple[Limit, ...], y: Tensor) -> Tensor:
    """Return what broken limits cost, expected of independent labels: (..., N, L) -> (..., N)."""
    result = torch.zeros_like(y[..., 0])
    for limit in limits:
        of_count = _counts(y[..., list(limit.labels)])[-1]
        broken = limit.is_broken(torch.arange(of_count.shape[-1], device=y.device))
        result = result + cost_of(limit) * (of_count * broken.to(y)).sum(-1)
    return result


def _counts(p: Tensor) -> list[Tensor]:
    """Return the distribution of how many of the first 0, 1, ..., n labels are present."""
    found = [torch.ones_like(p[..., :1])]
    for label in range(p.shape[-1]):
        last, q = found[-1], p[..., label : label + 1]
        none = torch.zeros_like(q)
        found.append(torch.cat([last * (1 - q), none], -1) + torch.cat([none, last * q], -1))
    return found


def _of_sum(one: Tensor, other: Tensor, total: int) -> Tensor:
    """Return P(a + b = total) from the distributions of a and b (..., n), (..., m): (...)."""
    first = max(0, total - other.shape[-1] + 1)
    last = min(one.shape[-1] - 1, total)
    if first > last:
        return torch.zeros_like(one[..., 0])
    return (one[..., first : last + 1] * other[..., total - last : total - first + 1].flip(-1)).sum(
        -1
    )
