"""The labels in two halves, and the states that each half can be in."""

import math
from dataclasses import dataclass, replace

import networkx as nx
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN

_LARGEST = 24  # labels that a half may have: its states are listed one by one
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
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(len(matrix)))
    graph.add_edges_from(implications.tolist())
    groups = sorted(map(sorted, nx.connected_components(graph)))
    sizes = [math.log2(len(_possible(group, implications))) for group in groups]
    parts: tuple[list[int], list[int]] = ([], [])
    room = [sum(sizes) / 2, math.inf]
    for group, size in zip(groups, sizes, strict=True):
        part = 0 if size <= room[0] + 1e-9 else 1
        room[part] -= size
        parts[part].extend(group)
    if not parts[1]:  # a single group: all of it in the second half
        parts = parts[1], parts[0]
    return _make_half(parts[0], matrix, implications), _make_half(parts[1], matrix, implications)


def count_states(num_labels: int, implications: Tensor) -> float:
    """Log2 of how many label vectors break no implication."""
    graph = nx.Graph(implications.tolist())
    groups = [sorted(group) for group in nx.connected_components(graph)]
    free = num_labels - sum(map(len, groups))
    return free + sum(math.log2(len(_possible(group, implications))) for group in groups)


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


def _possible(labels: list[int], implications: Tensor) -> Tensor:
    """The states of some labels that break no implication among them, uint8 (S, l)."""
    assert len(labels) <= _LARGEST, f"{len(labels)} labels in one half"
    states = all_states(len(labels))
    column = {label: at for at, label in enumerate(labels)}
    for child, parent in implications.tolist():
        if child in column and parent in column:
            states = states[states[:, column[child]] <= states[:, column[parent]]]
    return states
