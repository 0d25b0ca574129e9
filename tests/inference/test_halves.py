"""How many states implications leave, and that none but these are listed."""

import math
from itertools import product

import pytest
import torch

from mlcrf.crf import Potentials, no_implications
from mlcrf.errors import TooManyLabelsError
from mlcrf.inference import Exact, count_states
from mlcrf.inference.halves import make_halves
from tests.making import close

Rules = list[tuple[int, int]]


def possible(num_labels: int, rules: Rules) -> set[tuple[int, ...]]:
    """Label vectors without a child that lacks a parent, by trying all."""
    states = product((0, 1), repeat=num_labels)
    return {y for y in states if all(y[child] <= y[parent] for child, parent in rules)}


@pytest.mark.parametrize("most_parents", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_states_are_those_that_break_no_rule(seed: int, most_parents: int) -> None:
    """Counted and listed, for trees of labels and for labels with several parents."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(8, generator=generator).tolist()
    rules: Rules = []
    for place in range(1, 8):
        chance = torch.rand(place, generator=generator)
        parents = [at for at in range(place) if chance[at] < 0.4][:most_parents]
        rules += [(order[place], order[at]) for at in parents]
    wanted = possible(8, rules)
    pairs = torch.tensor(rules, dtype=torch.int64).reshape(-1, 2)
    assert 2 ** count_states(8, pairs) == pytest.approx(len(wanted))
    halves = make_halves(torch.zeros(8, 8, dtype=torch.float64), pairs)
    columns = torch.cat([half.labels for half in halves]).argsort()
    found = [
        tuple(torch.cat([first, second])[columns].long().tolist())
        for first in halves[0].states
        for second in halves[1].states
    ]
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_many_labels_that_hang_together() -> None:
    """A chain of forty has forty-one states; a thousand children of one are counted, not listed."""
    chain = torch.stack([torch.arange(1, 40), torch.arange(39)], 1)
    assert 2 ** count_states(40, chain) == pytest.approx(41)
    potentials = Potentials(torch.zeros(1, 40), torch.empty((0, 2)).long(), torch.empty(0), chain)
    posterior = Exact()(potentials)
    close(posterior.log_partition, torch.tensor([math.log(41)]), 1e-5)
    close(posterior.marginals[0], torch.arange(40, 0, -1) / 41, 1e-5)
    star = torch.stack([torch.arange(1, 1001), torch.zeros(1000, dtype=torch.int64)], 1)
    assert count_states(1001, star) == pytest.approx(1000)
    several = torch.cat([star, torch.tensor([[2, 1]])])
    assert 1000 >= count_states(1001, several) >= math.log2(3) + 998


def test_a_half_that_is_too_large() -> None:
    """Thirty labels that imply one cannot be split: refused with a remedy, whatever the limit."""
    star = torch.stack([torch.arange(1, 31), torch.zeros(30, dtype=torch.int64)], 1)
    empty = torch.empty((0, 2), dtype=torch.int64)
    potentials = Potentials(torch.zeros(1, 31), empty, torch.empty(0), star)
    with pytest.raises(TooManyLabelsError, match=r"2\*\*31 states of half .* --inference gibbs"):
        Exact(max_labels=40)(potentials)
    with pytest.raises(TooManyLabelsError, match=r"would enumerate 2\*\*31 states"):
        Exact()(potentials)
    with pytest.raises(TooManyLabelsError, match=r"2\*\*25 states of half"):
        make_halves(torch.zeros(50, 50), no_implications())
