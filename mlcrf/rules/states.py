"""The label sets that rules allow, listed, and the cost of those that break soft rules."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.rules.limit import Limit
from mlcrf.rules.ruleset import Rules

_MOST = 2**24  # states that are listed at once


def list_states(labels: list[int], rules: Rules, *, most: int = _MOST) -> NDArray[np.uint8] | None:
    """Return the states of some labels that break no hard rule among them, (S, l).

    The first label changes slowest. States are made label by label, and those from which no rule
    can be kept any more are dropped, so that few more than the result are ever held.

    Args:
        most: None is returned where more states would be held.
    """
    at = {label: place for place, label in enumerate(labels)}
    own = rules.among(labels)
    states = np.zeros((1, 0), dtype=np.uint8)
    for place in range(len(at)):
        if 2 * len(states) > most:
            return None
        longer = np.tile(np.arange(2, dtype=np.uint8), len(states))
        states = np.column_stack([states.repeat(2, 0), longer])
        keep = np.ones(len(states), dtype=bool)
        for child, parent in own.pairs:
            if max(child, parent) == place:
                keep &= states[:, child] <= states[:, parent]
        for limit in own.hard_limits:
            if place in limit.labels:
                seen = [label for label in limit.labels if label <= place]
                present, left = (
                    states[:, seen].sum(1, dtype=np.int64),
                    len(limit.labels) - len(seen),
                )
                keep &= (present <= limit.most) & (present + left >= limit.least)
        states = states[keep]
    return states


def within(limit: Limit, labels: list[int]) -> bool:
    """Return whether a limit names none but some labels."""
    return set(labels).issuperset(limit.labels)


def log_weights(limits: tuple[Limit, ...], present: list[Tensor]) -> Tensor:
    """Return what limits add to log-scores: minus infinity if a hard one is broken.

    Args:
        present: for each limit the number of labels that are present, all of one shape.
    """
    result = torch.zeros_like(present[0], dtype=torch.float64)
    for limit, count in zip(limits, present, strict=True):
        cost = math.inf if limit.weight is None else limit.weight
        result = torch.where(limit.is_broken(count), result - cost, result)
    return result
