"""Partition of the labels into halves, and the states that rules allow."""

import math
from graphlib import TopologicalSorter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import TooManyLabelsError
from mlcrf.rules import Rules

_LARGEST = 24  # log2 of the largest number of states of a half, which are all listed
_STARTS, _MANY = 4, 16  # starts of the search, and the number of groups from which it has several
_ROUNDING = 1e-12  # gains below this share of the couplings of both groups may be rounding alone

Floats = NDArray[np.float64]


def split_labels(strength: Tensor, rules: Rules) -> tuple[list[int], list[int]]:
    """Split the labels in two halves of about as many states, with weak couplings between them.

    From a few starts, the two labels that gain most by changing sides do so, until none gain
    (Kernighan and Lin's exchange). Labels linked by rules stay together.

    Args:
        strength: sizes of couplings, (L, L).
        rules: pairs (child, parent).

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
    """Return log2 of the number of label vectors that break no implication.

    An upper bound where more than 24 labels are linked, some of them with several parents.

    Cost: linear in labels and rules, plus at most 2^24 states of such groups.
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


def _groups(num_labels: int, rules: Rules) -> tuple[list[list[int]], list[float]]:
    """Return groups of labels linked by rules, and log2 of the number of their states.

    In a tree a label is absent with all below it, or present, and its branches are free:

        size_i = log2(1 + 2^(sum over children of size))
    """
    parents = rules.parents
    below = dict.fromkeys(range(num_labels), 0.0)
    size = dict.fromkeys(range(num_labels), 1.0)
    for label in reversed(list(TopologicalSorter(parents).static_order())):
        size[label] = float(np.logaddexp2(0, below[label]))
        if label in parents:
            below[parents[label][0]] += size[label]
    groups, sizes = _linked(num_labels, rules), []
    for group in groups:
        is_tree = all(len(parents.get(label, ())) < 2 for label in group)
        if is_tree or len(group) > _LARGEST:
            sizes.append(math.fsum(size[label] for label in group if label not in parents))
        else:
            sizes.append(math.log2(len(possible_states(group, rules))))
    return groups, sizes


def _linked(num_labels: int, rules: Rules) -> list[list[int]]:
    """Return the groups of labels that rules link, each in order, by their first labels."""
    group = {label: [label] for label in range(num_labels)}
    for child, parent in rules.pairs:
        smaller, larger = sorted((group[child], group[parent]), key=len)
        if smaller is not larger:
            larger += smaller
            group |= dict.fromkeys(smaller, larger)
    return [sorted(one) for one in {id(one): one for one in group.values()}.values()]


def possible_states(labels: list[int], rules: Rules) -> Tensor:
    """Return the states of some labels that break no implication among them, uint8 (S, l).

    The first label changes slowest. States are made label by label, so that at most twice as many
    are ever held.
    """
    at = {label: place for place, label in enumerate(labels)}
    pairs = [(at[c], at[p]) for c, p in rules.pairs if c in at and p in at]
    states = torch.zeros((1, 0), dtype=torch.uint8)
    for place in range(len(labels)):
        longer = torch.arange(2, dtype=torch.uint8).repeat(len(states))
        states = torch.cat([states.repeat_interleave(2, 0), longer[:, None]], 1)
        for child, parent in pairs:
            if max(child, parent) == place:
                states = states[states[:, child] <= states[:, parent]]
    return states
