"""Sums over all label sets, one after the other: slow, obvious, and no code of the package.

Pairs come from `combinations`, never from half a quadratic form, so that a coupling that is
counted twice, or not at all, cannot go unseen on both sides.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any

State = tuple[int, ...]


@dataclass(frozen=True)
class Oracle:
    """One image's CRF.

    Attributes:
        unary: log-odds of each label on its own.
        couplings: by pair i < j; a pair that is missing has none.
        known: 1, 0, or -1 for unknown, by label; None if nothing is known.
    """

    unary: Sequence[float]
    couplings: dict[tuple[int, int], float]
    known: Sequence[int] | None = None

    def score(self, state: Sequence[int]) -> float:
        """Unnormalised log-probability of a label vector."""
        present = [label for label, value in enumerate(state) if value]
        terms = [self.unary[label] for label in present]
        terms += [self.couplings.get(pair, 0.0) for pair in combinations(present, 2)]
        return math.fsum(terms)

    @cached_property
    def scores(self) -> dict[State, float]:
        """Of every state that agrees with what is known."""
        known = self.known or [-1] * len(self.unary)
        choices = [(0, 1) if value == -1 else (int(value),) for value in known]
        return {state: self.score(state) for state in product(*choices)}

    @cached_property
    def log_partition(self) -> float:
        """Log of the sum over the states that agree, their own score included."""
        top = max(self.scores.values())
        return top + math.log(math.fsum(math.exp(s - top) for s in self.scores.values()))

    @cached_property
    def probabilities(self) -> dict[State, float]:
        """Of every state that agrees, given what is known."""
        return {state: math.exp(s - self.log_partition) for state, s in self.scores.items()}

    def probability(self, *present: int) -> float:
        """That all of the given labels are present."""
        return math.fsum(
            p for state, p in self.probabilities.items() if all(state[i] for i in present)
        )

    @cached_property
    def marginals(self) -> list[float]:
        """Probability of each label."""
        return [self.probability(label) for label in range(len(self.unary))]

    def pairwise_marginals(self, edges: Iterable[Sequence[int]]) -> list[float]:
        """Probability of both labels of each edge."""
        return [self.probability(first, second) for first, second in edges]

    @cached_property
    def best_score(self) -> float:
        """Score of the most probable state."""
        return max(self.scores.values())

    def conditional(self, label: int, state: Sequence[int]) -> float:
        """Probability of one label given the others of a state."""
        known = [*state[:label], -1, *state[label + 1 :]]
        return Oracle(self.unary, self.couplings, known).marginals[label]


def oracles(potentials: Any, known: Any = None) -> list[Oracle]:
    """One for each image of a batch, from its numbers alone."""
    pairs = [(first, second) for first, second in potentials.edges.tolist()]
    unary, pairwise = potentials.unary.tolist(), potentials.pairwise.tolist()
    rows = pairwise if potentials.pairwise.ndim == 2 else [pairwise] * len(unary)
    given = [None] * len(unary) if known is None else known.tolist()
    return [
        Oracle(u, dict(zip(pairs, p, strict=True)), k)
        for u, p, k in zip(unary, rows, given, strict=True)
    ]
