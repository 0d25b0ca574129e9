"""Partition of the labels into halves, and the states that rules allow."""

import math
from functools import lru_cache
from graphlib import TopologicalSorter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import TooManyLabelsError
from mlcrf.rules import Limit, Rules
from mlcrf.rules.ruleset import link
from mlcrf.rules.states import list_states

_LARGEST = 24  # log2 of the largest number of states of a half, which are all listed
_STARTS, _MANY = 4, 16  # starts of the search, and the number of groups from which it has several
_FEW, _SAVED = 12, 4  # log2 of states: limits join labels up to this many, or saving this factor
_JOINED = 2**20  # largest number of states of labels that limits join
_ROUNDING = 1e-12  # gains below this share of the couplings of both groups may be rounding alone

Floats = NDArray[np.float64]


def split_labels(strength: Tensor, rules: Rules) -> tuple[list[int], list[int]]:
    """Split the labels in two halves of about as many states, with weak couplings between them.

    From a few starts, the two labels that gain most by changing sides do so, until none gain
    (Kernighan and Lin's exchange). Labels linked by implications stay together, and those of a
    limit that leaves few states.

    Args:
        strength: sizes of couplings, (L, L).

    Raises:
        TooManyLabelsError: a half would have more than 2^24 states.
    """
    groups, log_states = _groups(len(strength), rules)
    sizes = np.array(log_states)
    member = np.zeros((len(groups), len(strength)))
    for at, group in enumerate(groups):
        member[at, group] = 1
    between = member @ strength.abs().double().cpu().numpy() @ member.T
    np.fill_diagonal(between, 0)
    draw, more = np.random.default_rng(0), _STARTS - 1 if len(groups) >= _MANY else 0
    starts = [np.arange(len(groups)), *(draw.permutation(len(groups)) for _ in range(more))]
    found = [_exchange(_fill(start, sizes), sizes, between) for start in starts]
    largest, _, second = min(found, key=lambda one: (round(one[0], 6), one[1]))
    if largest > _LARGEST:
        raise TooManyLabelsError(
            f"exact inference would list 2**{math.ceil(largest)} states of half of the labels; the "
            f"limit is 2**{_LARGEST}. Use --inference gibbs."
        )
    parts: tuple[list[int], list[int]] = ([], [])
    for group, side in zip(groups, second.tolist(), strict=True):
        parts[int(side)].extend(group)
    return parts


def count_states(num_labels: int, rules: Rules) -> float:
    """Return log2 of the number of label vectors that break no hard rule.

    An upper bound where more than 24 labels are linked, some of them with several parents, and
    where a limit would leave many states of its group.

    Cost: linear in labels and rules, plus at most 2^24 states of such groups; cached.
    """
    return math.fsum(_groups(num_labels, rules)[1])


def _fill(order: NDArray[np.int64], sizes: Floats) -> Floats:
    """Put groups in the first half in this order while they fit; return 0 or 1 for each."""
    side, room = np.ones(len(sizes)), sizes.sum() / 2
    for group in order:
        if sizes[group] <= room + 1e-9:
            side[group] = 0
            room -= sizes[group]
    return side


def _exchange(side: Floats, sizes: Floats, between: Floats) -> tuple[float, float, Floats]:
    """Exchange groups while that cuts less; return the larger half, the cut and the sides.

    Stops after as many exchanges as there are pairs of groups; a few are usual.
    """
    same_size = np.abs(sizes[:, None] - sizes) < 1e-9
    strength = between.sum(1)
    noise = _ROUNDING * (strength[:, None] + strength)
    for _ in range(same_size.size):
        sign = 1 - 2 * side
        gain = -sign * (between @ sign)  # of changing sides alone
        both = gain[:, None] + gain - 2 * between
        allowed = same_size & (side[:, None] < side) & (both > noise)
        if not allowed.any():
            break
        best = np.unravel_index(np.argmax(np.where(allowed, both, -np.inf)), both.shape)
        side[list(best)] = 1 - side[list(best)]
    cut = float(side @ between @ (1 - side))
    first = float(sizes @ (1 - side))
    return max(first, float(sizes.sum()) - first), cut, side


@lru_cache(maxsize=64)
def _groups(num_labels: int, rules: Rules) -> tuple[list[list[int]], list[float]]:
    """Return groups of labels that stay together, and log2 of the number of their states.

    Labels linked by implications do; those of a hard limit if few states are left, see `_Groups`.
    """
    found = _Groups(num_labels, rules)
    for limit in sorted(rules.hard_limits, key=_share):
        found.join(limit)
    return found.labels, found.sizes


class _Groups:
    """Groups of labels linked by implications and the limits joined so far, with their sizes.

    In a tree of implications a label is absent with all below it, or present, and its branches are
    free:

        size_i = log2(1 + 2^(sum over children of size))
    """

    def __init__(self, num_labels: int, rules: Rules) -> None:
        self._rules = rules
        self.labels, self.sizes = link(num_labels, rules.pairs), []
        parents = rules.parents
        below = dict.fromkeys(range(num_labels), 0.0)
        size = dict.fromkeys(range(num_labels), 1.0)
        for label in reversed(list(TopologicalSorter(parents).static_order())):
            size[label] = float(np.logaddexp2(0, below[label]))
            if label in parents:
                below[parents[label][0]] += size[label]
        without_limits = Rules(rules.pairs)
        for group in self.labels:
            is_tree = all(len(parents.get(label, ())) < 2 for label in group)
            if is_tree or len(group) > _LARGEST:
                self.sizes.append(math.fsum(size[label] for label in group if label not in parents))
            else:
                self.sizes.append(math.log2(len(possible_states(group, without_limits))))

    def join(self, limit: Limit) -> None:
        """Join the groups of a limit's labels if they then have few states.

        That is at most 2^12, or at most 2^20 if this is a sixteenth of those without the limit.
        Else the limit lies across the groups, and what breaks it has no entry in the kernel.
        """
        touched = [
            at for at, one in enumerate(self.labels) if not set(one).isdisjoint(limit.labels)
        ]
        before = math.fsum(self.sizes[at] for at in touched)
        most = _JOINED if before > _FEW + _SAVED else 2**_FEW
        labels = sorted(label for at in touched for label in self.labels[at])
        states = list_states(labels, self._rules, most=2 * most)
        if states is None or len(states) > most or not len(states):
            return
        size = math.log2(len(states))
        if size > _FEW and size > before - _SAVED:
            return
        first = touched[0]
        self.labels[first], self.sizes[first] = labels, size
        for at in reversed(touched[1:]):
            del self.labels[at], self.sizes[at]


def _share(limit: Limit) -> float:
    """Return the share of the states of a limit's labels that it allows."""
    size = len(limit.labels)
    allowed = sum(math.comb(size, k) for k in range(limit.least, limit.most + 1))
    return float(allowed / 2**size)


def possible_states(labels: list[int], rules: Rules) -> Tensor:
    """Return the states of some labels that break no rule among them, uint8 (S, l).

    The first label changes slowest.

    Raises:
        TooManyLabelsError: there are more than 2^24.
    """
    states = list_states(labels, rules)
    if states is None:
        raise TooManyLabelsError(
            f"exact inference would list more than 2**{_LARGEST} states of {len(labels)} labels. "
            "Use --inference gibbs."
        )
    return torch.from_numpy(states)
