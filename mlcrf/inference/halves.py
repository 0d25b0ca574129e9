"""The labels in two halves, and the states that each half can be in."""

import math
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.errors import TooManyLabelsError

_LARGEST = 24  # log2 of the states that a half may have: they are listed one by one
_AT_ONCE = 2**17  # scores that are turned into weights at once, to stay in the cache


@dataclass(frozen=True)
class Half:
    """Some of the labels with all their possible states, in any order.

    Attributes:
        labels: their columns, int64 (l,).
        states: float64 (S, l).
        inside: log-score of each state from the couplings among these labels, float64 (S,).
    """

    labels: Tensor
    states: Tensor
    inside: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def permuted(self, order: Tensor) -> "Half":
        """The same states in another order."""
        return replace(self, states=self.states[order], inside=self.inside[order])

    def log_scores(self, unary: Tensor, known: Tensor) -> Tensor:
        """Of every state, minus infinity if it contradicts what is known: float64 (N, S).

        Args:
            unary: float64 (N, L).
            known: 1, 0, -1 unknown (N, L).

        Cost: 2 N S l operations.
        """
        scores = torch.addmm(self.inside, unary[:, self.labels], self.states.T)
        known = known[:, self.labels]
        if bool((known != UNKNOWN).any()):
            present, absent = (known == 1).double(), (known == 0).double()
            wrong = absent @ self.states.T + present @ (1 - self.states).T
            scores[wrong > 0] = -math.inf
        return scores

    def weights(self, unary: Tensor, known: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """exp(log_scores - top) in `dtype` (N, S), and each image's top, float64 (N,)."""
        result = torch.empty(len(unary), len(self), dtype=dtype, device=unary.device)
        top = unary.new_empty(len(unary))
        step = max(1, _AT_ONCE // len(self))
        for start in range(0, len(unary), step):
            rows = slice(start, start + step)
            scores = self.log_scores(unary[rows], known[rows])
            top[rows] = scores.amax(-1)
            torch.exp(result[rows].copy_(scores.sub_(top[rows, None])), out=result[rows])
        return result, top


def make_halves(matrix: Tensor, implications: Tensor) -> tuple[Half, Half]:
    """Split the labels so that an implication stays within a half and states are about as many.

    Without implications the first half is the first L // 2 labels.

    Args:
        matrix: couplings (L, L).
        implications: pairs (child, parent) (R, 2); states that break one are left out.

    Raises:
        TooManyLabelsError: a half would have more than 2^24 states.
    """
    groups, sizes = _groups(len(matrix), implications)
    parts: tuple[list[int], list[int]] = ([], [])
    room = [sum(sizes) / 2, math.inf]
    for group, size in zip(groups, sizes, strict=True):
        part = 0 if size <= room[0] + 1e-9 else 1
        room[part] -= size
        parts[part].extend(group)
    largest = max(sum(sizes) / 2 - room[0], sum(sizes) / 2 + room[0])
    if largest > _LARGEST:
        raise TooManyLabelsError(
            f"exact inference would list 2**{math.ceil(largest)} states of half of the labels; the "
            f"limit is 2**{_LARGEST}. Use --inference gibbs."
        )
    if not parts[1]:  # a single group: all of it in the second half
        parts = parts[1], parts[0]
    return _make_half(parts[0], matrix, implications), _make_half(parts[1], matrix, implications)


def count_states(num_labels: int, implications: Tensor) -> float:
    """Log2 of how many label vectors break no implication.

    An upper bound where more than 24 labels hang together, some of them with several parents.

    Cost: linear in labels and implications, but for 2^24 states at most of such groups.
    """
    return math.fsum(_groups(num_labels, implications)[1])


def all_states(num_labels: int) -> Tensor:
    """Every label vector, the first label the slowest to change: uint8 (2^L, L)."""
    index = torch.arange(2**num_labels)
    shifts = torch.arange(num_labels - 1, -1, -1)
    return ((index[:, None] >> shifts) & 1).to(torch.uint8)


def _make_half(labels: list[int], matrix: Tensor, implications: Tensor) -> Half:
    columns = torch.tensor(labels, dtype=torch.int64)
    states = _possible(labels, implications).to(matrix)
    couplings = matrix[columns][:, columns].triu(1)
    return Half(columns, states, ((states @ couplings) * states).sum(-1))


def _groups(num_labels: int, implications: Tensor) -> tuple[list[list[int]], list[float]]:
    """Labels that hang together by implications, most of them alone; and log2 of their states.

    In a tree a label is absent with all below it, or present, and its branches are free:

        size_i = log2(1 + 2^(sum over children of size))
    """
    parents: dict[int, list[int]] = {}
    for child, parent in implications.tolist():
        parents.setdefault(child, []).append(parent)
    below = dict.fromkeys(range(num_labels), 0.0)
    size = dict.fromkeys(range(num_labels), 1.0)
    for label in reversed(list(TopologicalSorter(parents).static_order())):
        size[label] = float(np.logaddexp2(0, below[label]))
        if label in parents:
            below[parents[label][0]] += size[label]
    graph = nx.Graph()
    graph.add_nodes_from(range(num_labels))
    graph.add_edges_from(implications.tolist())
    groups, sizes = sorted(map(sorted, nx.connected_components(graph))), []
    for group in groups:
        is_tree = all(len(parents.get(label, ())) < 2 for label in group)
        if is_tree or len(group) > _LARGEST:
            sizes.append(math.fsum(size[label] for label in group if label not in parents))
        else:
            sizes.append(math.log2(len(_possible(group, implications))))
    return groups, sizes


def _possible(labels: list[int], implications: Tensor) -> Tensor:
    """The states of some labels that break no implication among them, uint8 (S, l).

    In the order of `all_states`, label by label, so that no more than twice as many are ever held.
    """
    at = {label: place for place, label in enumerate(labels)}
    rules = [(at[c], at[p]) for c, p in implications.tolist() if c in at and p in at]
    states = torch.zeros((1, 0), dtype=torch.uint8)
    for place in range(len(labels)):
        longer = torch.arange(2, dtype=torch.uint8).repeat(len(states))
        states = torch.cat([states.repeat_interleave(2, 0), longer[:, None]], 1)
        for child, parent in rules:
            if max(child, parent) == place:
                states = states[states[:, child] <= states[:, parent]]
    return states
