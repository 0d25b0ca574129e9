"""Decisions by trying every label set, and what the oracle says of the numbers of labels."""

from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.rules import Rules
from tests.oracle import Oracle, State


def every_state(num_labels: int) -> list[State]:
    return list(product((0, 1), repeat=num_labels))


# of two label sets, from how many labels both have and how many each has
MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "f1": lambda both, chosen, truth: _share(2 * both, chosen + truth),
    "jaccard": lambda both, chosen, truth: _share(both, chosen + truth - both),
    "fewest wrong labels": lambda both, chosen, truth: 2 * both - chosen - truth,
    "nothing wrong": lambda both, chosen, truth: ((chosen == both) & (truth == both)).double(),
    "labels in common": lambda both, chosen, truth: both,
}


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part of the whole; 1 if both sets are empty."""
    return torch.where(whole > 0, part / whole, 1.0)


def admissible_states(
    known: Iterable[int], rules: Rules, at_least: int = 0, at_most: int | None = None
) -> list[State]:
    """Every label set that may be chosen."""
    known = list(known)
    most = len(known) if at_most is None else at_most
    return [
        state
        for state in every_state(len(known))
        if all(value in (-1, bit) for value, bit in zip(known, state, strict=True))
        and all(state[parent] or not state[child] for child, parent in rules.pairs)
        and at_least <= sum(state) <= most
    ]


def best_expectation(measure: str, probabilities: dict[State, float], among: list[State]) -> float:
    """The highest expectation of a measure of the sets among which to choose."""
    possible = {state: p for state, p in probabilities.items() if p > 0}
    mass = torch.tensor(list(possible.values()), dtype=torch.float64)
    truth = torch.tensor(list(possible), dtype=torch.float64)
    chosen = torch.tensor(among, dtype=torch.float64)
    of_pairs = MEASURES[measure](chosen @ truth.T, chosen.sum(1, keepdim=True), truth.sum(1))
    return float((of_pairs @ mass).max())


def expectation(measure: str, probabilities: dict[State, float], chosen: Tensor) -> float:
    """The expectation of a measure of one label set (L,)."""
    return best_expectation(measure, probabilities, [tuple(chosen.tolist())])


def count_marginals(truth: list[Oracle], num_labels: int) -> Tensor:
    """P(y_i = 1, |y| = s) of every image, float64 (N, L, L + 1)."""
    result = torch.zeros(len(truth), num_labels, num_labels + 1, dtype=torch.float64)
    for image, one in enumerate(truth):
        for state, p in one.probabilities.items():
            for label in range(num_labels):
                result[image, label, sum(state)] += p * state[label]
    return result


def empty(truth: list[Oracle]) -> Tensor:
    """P(|y| = 0) of every image, float64 (N,)."""
    nothing = [one.probabilities.get((0,) * len(one.unary), 0.0) for one in truth]
    return torch.tensor(nothing, dtype=torch.float64)


def shares(samples: Tensor) -> dict[State, float]:
    """The distribution of one image's samples (S, L)."""
    result: dict[State, float] = {}
    for row in samples.tolist():
        result[tuple(row)] = result.get(tuple(row), 0.0) + 1 / len(samples)
    return result


def draw(potentials: Potentials, num_samples: int, known: Tensor, seed: int = 0) -> Tensor:
    """Samples by the probability of every state, uint8 (S, N, L); couplings shared."""
    coupled = potentials.as_couplings()
    states = torch.tensor(every_state(coupled.num_labels), dtype=coupled.unary.dtype)
    inside = ((states @ coupled.pairwise_matrix().triu(1)) * states).sum(-1)
    scores = coupled.unary @ states.T + inside
    wrong = (known == 0).to(states) @ states.T + (known == 1).to(states) @ (1 - states).T
    mass = scores.masked_fill(wrong > 0, -torch.inf).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(mass, num_samples, replacement=True, generator=generator)
    return states[drawn.T].to(torch.uint8)
