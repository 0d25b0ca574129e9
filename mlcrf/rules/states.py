"""The label sets that rules allow, listed, and the cost of those that break soft rules."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.labels import UNKNOWN
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


def list_partial_states(states: NDArray[np.uint8], *, most: int = _MOST) -> NDArray[np.int8] | None:
    """Return all partial states of some labels under rules, 1, 0 or -1 for open, (P, l).

    Some state agrees with what is decided in a partial state, and nothing that follows from this by
    the rules is open: of each open label, the states that agree have both values.

    Args:
        states: the states that the rules allow, as `list_states` returns them (S, l).
        most: None is returned where more partial states, or more than 1,024 times as many pairs of
            one and a state, would be held.
    """
    present = states.astype(np.float32)
    partial = np.zeros((1, 0), dtype=np.int8)
    agrees = np.ones((1, len(states)), dtype=bool)
    for place in range(states.shape[1]):
        if 3 * len(partial) > most or 3 * agrees.size > 1024 * most:
            return None
        values = np.tile(np.array([0, 1, UNKNOWN], dtype=np.int8), len(partial))
        partial = np.column_stack([partial.repeat(3, 0), values])
        agrees = agrees.repeat(3, 0)
        agrees &= (values[:, None] == UNKNOWN) | (states[:, place] == values[:, None])
        count, having = agrees.sum(1), agrees.astype(np.float32) @ present[:, : place + 1]
        settled = (having == 0) | (having == count[:, None])
        keep = (count > 0) & ~((partial == UNKNOWN) & settled).any(1)
        partial, agrees = partial[keep], agrees[keep]
    return partial


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
