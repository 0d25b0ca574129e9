"""The two halves of the labels, each made of two quarters, with all possible states."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.inference.exact.partition import possible_states, split_labels
from mlcrf.inference.exact.scratch import Scratch
from mlcrf.rules import Rules
from mlcrf.rules.states import log_weights

_SUMMED = 32  # smallest number of half-states whose mass is summed in its own type


@dataclass(frozen=True)
class Part:
    """Some of the labels with all their possible states.

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

    def log_scores(self, unary: Tensor, known: Tensor) -> Tensor:
        """Return the log-score of every state, minus infinity if known labels contradict it (N, S).

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


@dataclass(frozen=True)
class Half(Part):
    """Half of the labels, made of two quarters, with a state for each pair of the quarters' states.

    Pairs that break a hard rule have no state.

    Attributes:
        quarters: the state of the last one changes first.
        joint: the coupling between them, around 1/2 as in `split_enumeration.py`, and what soft
            rules across them cost, float64 (S,); common to all images, so it goes into the kernel.
        shift: the part of the coupling that belongs to single labels, float64 (L,).
        constant: the part that belongs to no label.
        order: position of each state among the pairs; None for all in the order of the quarters.
        is_product: whether quarters are free of each other but for couplings.
    """

    quarters: tuple[Part, Part]
    joint: Tensor
    shift: Tensor
    constant: float
    order: Tensor | None = None
    is_product: bool = True

    @property
    def exponent_bound(self) -> float:
        """The largest absolute value of `joint`."""
        return float(self.joint.abs().max())

    def permuted(self, order: Tensor) -> "Half":
        """Return the same states in another order."""
        before = order if self.order is None else self.order[order]
        moved = {name: getattr(self, name)[order] for name in ("states", "inside", "joint")}
        return replace(self, **moved, order=before)

    def presence(self, mass: Tensor) -> Tensor:
        """Return each label's share of the states' mass (N, S), float64 (N, l).

        A float32 sum of many small numbers loses too much, so it is made in parts: over the other
        quarter, or, if states are sorted, over few likely and more unlikely states.
        """
        if self.order is None:
            first, second = self.quarters
            by_both = mass.view(len(mass), len(first), len(second))
            by_first, by_second = by_both.sum(2).double(), by_both.sum(1).double()
            present = torch.cat([by_first @ first.states, by_second @ second.states], 1)
            return present / by_first.sum(1, keepdim=True)
        present = self.states.new_zeros(len(mass), self.states.shape[1] + 1)
        # one row per label: products of many rows and few columns are twice as fast this way
        states = torch.cat([self.states.T, self.states.new_ones(1, len(self))]).to(mass)
        start = 0
        while start < len(self):  # more at a time where there is less mass
            some = slice(start, start + max(_SUMMED, start // 8))
            present += mass[:, some] @ states[:, some].T
            start = some.stop
        return present[:, :-1] / present[:, -1:]

    def weights(
        self, unary: Tensor, known: Tensor, dtype: torch.dtype, scratch: Scratch, name: str
    ) -> tuple[Tensor, Tensor]:
        """Return exp(log_scores - joint - top) in `dtype` (N, S), and each top, float64 (N,).

        The product of two small tables, one per quarter, which are computed in float64. The largest
        weight of an image is 1, or less if rules across the quarters forbid that state.

        Args:
            name: name of the array in `scratch` for the weights.

        Cost: N S operations.
        """
        tables, top = [], unary.new_full((len(unary),), -self.constant)
        shifted = unary + self.shift
        for quarter in self.quarters:
            scores = quarter.log_scores(shifted, known)
            largest = scores.amax(-1)
            tables.append(scores.sub_(largest[:, None]).exp_().to(dtype))
            top += largest
        first, second = tables
        shape = (len(unary), first.shape[1] * second.shape[1])
        weights = scratch.take(name if self.order is None else "ordered", shape, first)
        by_both = weights.view(len(unary), first.shape[1], second.shape[1])
        torch.mul(first[:, :, None], second[:, None], out=by_both)
        if self.order is not None:
            ordered = scratch.take(name, (len(unary), len(self)), first)
            weights = in_order(weights, self.order, ordered)
        return weights, top


def in_order(values: Tensor, order: Tensor, out: Tensor) -> Tensor:
    """Reorder columns, (N, S) -> (N, S); `gather` takes half as long as other ways."""
    return torch.gather(values, 1, order.expand(len(values), -1), out=out)


def make_halves(
    matrix: Tensor, rules: Rules, parts: tuple[list[int], list[int]]
) -> tuple[Half, Half]:
    """Return the halves that `split_labels` chose.

    Args:
        matrix: couplings (L, L).
        rules: those inside a half are kept to; see `Across` for the others.
    """
    first, second = (_make_half(part, matrix, rules) for part in parts)
    return first, second


def _make_half(labels: list[int], matrix: Tensor, rules: Rules) -> Half:
    sub = matrix[labels][:, labels]
    own = rules.among(labels)
    sides = split_labels(sub, own)
    first, second = quarters = [
        _make_part([labels[place] for place in side], matrix, rules) for side in sides
    ]
    between = matrix[first.labels][:, second.labels]
    shift = matrix.new_zeros(len(matrix))
    shift[first.labels], shift[second.labels] = between.sum(1) / 2, between.sum(0) / 2
    joint = (first.states - 0.5) @ between @ (second.states - 0.5).T
    inside = first.inside[:, None] + second.inside + first.states @ between @ second.states.T
    states = [
        first.states.repeat_interleave(len(second), 0),
        second.states.repeat(len(first), 1),
    ]
    half = Half(
        labels=torch.cat([first.labels, second.labels]),
        states=torch.cat(states, 1),
        inside=inside.flatten(),
        quarters=(quarters[0], quarters[1]),
        joint=joint.flatten(),
        shift=shift,
        constant=float(between.sum()) / 4,
    )
    across = Across(rules, first.labels, second.labels)
    if not across.limits:
        return half
    added = across.log_weights(first.states, second.states).flatten()
    half = replace(half, inside=half.inside + added, joint=half.joint + added, is_product=False)
    return half.permuted((added > -math.inf).nonzero().squeeze(1))


class Across:
    """The limits that name labels of both parts, and none of others.

    Args:
        first, second: labels of the parts, int64.
    """

    def __init__(self, rules: Rules, first: Tensor, second: Tensor) -> None:
        parts = first.tolist(), second.tolist()
        among = rules.among([*parts[0], *parts[1]])
        size = len(parts[0])
        self.limits = tuple(
            limit for limit in among.limits if min(limit.labels) < size <= max(limit.labels)
        )
        self._members = [
            (
                [label for label in limit.labels if label < size],
                [label - size for label in limit.labels if label >= size],
            )
            for limit in self.limits
        ]

    @property
    def largest_cost(self) -> float:
        """The largest sum of soft limits."""
        return math.fsum(limit.weight or 0.0 for limit in self.limits)

    def log_weights(self, first: Tensor, second: Tensor) -> Tensor:
        """Return what the limits add to log-scores, minus infinity if one forbids the pair.

        Args:
            first, second: states of the parts (..., l), (S, l').

        Returns:
            float64 (..., S).
        """
        present = [
            first[..., some].sum(-1, keepdim=True) + second[:, others].sum(-1)
            for some, others in self._members
        ]
        if not present:
            return first.new_zeros(*first.shape[:-1], len(second))
        return log_weights(self.limits, present)


def _make_part(labels: list[int], matrix: Tensor, rules: Rules) -> Part:
    columns = torch.tensor(labels, dtype=torch.int64, device=matrix.device)
    states = possible_states(labels, rules).to(matrix)
    couplings = matrix[columns][:, columns].triu(1)
    inside = ((states @ couplings) * states).sum(-1)
    return Part(columns, states, inside + soft_costs(labels, rules, states))


def soft_costs(labels: list[int], rules: Rules, states: Tensor) -> Tensor:
    """Return what soft limits among some labels add to the log-scores of their states (S,)."""
    soft = tuple(limit for limit in rules.among(labels).limits if not limit.is_hard)
    if not soft:
        return torch.zeros_like(states[:, :1].sum(1))
    return log_weights(soft, [states[:, list(limit.labels)].sum(1) for limit in soft])
