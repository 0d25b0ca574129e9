"""Halves list exactly the states that rules allow, and count them."""

import math
from itertools import product

import pytest
import torch

from mlcrf.crf import Potentials
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference import Exact, count_states
from mlcrf.inference.exact.halves import make_halves
from mlcrf.inference.exact.partition import possible_states, split_labels
from mlcrf.inference.exact.scratch import Scratch
from mlcrf.rules import Rules
from tests.making import close, make_potentials

Pairs = list[tuple[int, int]]


def possible(num_labels: int, rules: Pairs) -> set[tuple[int, ...]]:
    """Label vectors without a child that lacks a parent, by trying all."""
    states = product((0, 1), repeat=num_labels)
    return {y for y in states if all(y[child] <= y[parent] for child, parent in rules)}


@pytest.mark.parametrize("most_parents", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_states_are_those_that_break_no_rule(seed: int, most_parents: int) -> None:
    """Counted and listed, for trees of labels and for labels with several parents."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(8, generator=generator).tolist()
    rules: Pairs = []
    for place in range(1, 8):
        chance = torch.rand(place, generator=generator)
        parents = [at for at in range(place) if chance[at] < 0.4][:most_parents]
        rules += [(order[place], order[at]) for at in parents]
    wanted = possible(8, rules)
    pairs = Rules(tuple(rules))
    assert 2 ** count_states(8, pairs) == pytest.approx(len(wanted))
    matrix = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    halves = make_halves(matrix, pairs, split_labels(matrix, pairs))
    columns = torch.cat([half.labels for half in halves]).argsort()
    found = [
        tuple(torch.cat([first, second])[columns].long().tolist())
        for first in halves[0].states
        for second in halves[1].states
    ]
    assert len(found) == len(wanted)
    assert set(found) == wanted


@pytest.mark.parametrize("rules", [[], [(0, 3), (1, 3), (6, 2)]])
def test_weights_of_half_states(rules: Pairs) -> None:
    """From tables of the quarters: the scores of the listed states, in any order, and presence."""
    made = make_potentials(5, 9, unary=2.0, pairwise=1.5)
    pairs = Rules(tuple(rules))
    matrix, known = made.pairwise_matrix(), torch.full((5, 9), -1)
    known[1, :3] = torch.tensor([0, 1, -1])
    known[2:4, 4] = 1
    for half in make_halves(matrix, pairs, split_labels(matrix, pairs)):
        order = torch.randperm(len(half), generator=torch.Generator().manual_seed(0))
        for one in (half, half.permuted(order), half.permuted(order).permuted(order)):
            couplings = matrix[one.labels][:, one.labels] / 2
            inside = ((one.states @ couplings) * one.states).sum(1)
            wanted = (made.unary[:, one.labels] @ one.states.T + inside).exp()
            told = known[:, one.labels]
            for image, state in ((told >= 0).nonzero()).tolist():
                wanted[image, one.states[:, state] != told[image, state]] = 0
            scratch = Scratch()
            weights, top = one.weights(made.unary, known, torch.float64, scratch, "alpha")
            close(weights.amax(1), torch.ones(5, dtype=torch.float64), 1e-12)
            weights = weights * one.joint.exp()
            close(
                weights * top.exp()[:, None] / wanted.sum(1, keepdim=True),
                wanted / wanted.sum(1, keepdim=True),
                1e-12,
            )
            close(one.log_scores(made.unary, known).exp(), wanted, 1e-9 * float(wanted.max()))
            close(
                one.presence(weights),
                wanted @ one.states / wanted.sum(1, keepdim=True),
                1e-12,
            )


def test_order_of_states() -> None:
    """Every label vector once, the first label the slowest to change."""
    states = possible_states([4, 2, 7], Rules())
    assert states.tolist() == [list(state) for state in product((0, 1), repeat=3)]
    assert possible_states([], Rules()).shape == (1, 0)


def test_halves_are_coupled_weakly() -> None:
    """Two groups with strong couplings inside are told apart; rules keep labels together."""
    generator = torch.Generator().manual_seed(1)
    group = torch.randperm(12, generator=generator) % 2
    strength = torch.where(group[:, None] == group, 1.0, 0.1)
    parts = split_labels(strength, Rules())
    assert sorted(map(sorted, parts)) == sorted(
        (group == g).nonzero()[:, 0].tolist() for g in (0, 1)
    )
    tied = (int((group == 0).nonzero()[0]), int((group == 1).nonzero()[0]))
    parts = split_labels(strength, Rules((tied,)))
    assert any(set(tied) <= set(part) for part in parts)
    assert sorted(parts[0] + parts[1]) == list(range(12))


def test_many_labels_that_hang_together() -> None:
    """A chain of forty has forty-one states; a thousand children of one are counted, not listed."""
    chain = Rules(tuple((at + 1, at) for at in range(39)))
    assert 2 ** count_states(40, chain) == pytest.approx(41)
    potentials = Potentials(torch.zeros(1, 40), torch.empty((0, 2)).long(), torch.empty(0), chain)
    posterior = Exact()(potentials)
    close(posterior.log_partition, torch.tensor([math.log(41)]), 1e-5)
    close(posterior.marginals[0], torch.arange(40, 0, -1) / 41, 1e-5)
    star = Rules(tuple((at, 0) for at in range(1, 1001)))
    assert count_states(1001, star) == pytest.approx(1000)
    several = Rules((*star.pairs, (2, 1)))
    assert 1000 >= count_states(1001, several) >= math.log2(3) + 998


def test_a_half_that_is_too_large() -> None:
    """Thirty labels that imply one cannot be split: refused with a remedy, whatever the limit."""
    star = Rules(tuple((at, 0) for at in range(1, 31)))
    empty = torch.empty((0, 2), dtype=torch.int64)
    potentials = Potentials(torch.zeros(1, 31), empty, torch.empty(0), star)
    with pytest.raises(TooManyLabelsError, match=r"2\*\*31 states of half .* --inference gibbs"):
        Exact(max_labels=40)(potentials)
    with pytest.raises(TooManyLabelsError, match=r"would enumerate 2\*\*31 states"):
        Exact()(potentials)
    with pytest.raises(TooManyLabelsError, match=r"2\*\*25 states of half"):
        split_labels(torch.zeros(50, 50), Rules())
