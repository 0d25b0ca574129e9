"""Which label sets may be chosen, and how others are made so."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known, full_edges
from mlcrf.decoding import Admissible
from mlcrf.rules import Rules
from tests.decoding import brute

CHAIN = Rules(((3, 1), (1, 0), (4, 0), (1, 2)))  # 3 => 1 => 0 and 2, 4 => 0


def draw(num_images: int = 60, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Marginals and known labels that contradict no implication, 5 labels."""
    generator = torch.Generator().manual_seed(0)
    marginals = torch.rand(num_images, 5, generator=generator, dtype=torch.float64)
    if ties:
        marginals = (marginals * 3).floor() / 3
    rows = []
    while len(rows) < num_images:
        row = torch.randint(-3, 2, (1, 5), generator=generator).clamp(min=-1)
        held = all(row[0, parent] != 0 or row[0, child] != 1 for child, parent in CHAIN.pairs)
        if held and not (row[0, 3] == 1 and (row[0, [0, 2]] == 0).any()):
            rows.append(row)
    potentials = Potentials(marginals, full_edges(5), torch.zeros(10).double(), CHAIN)
    return marginals, check_known(potentials, torch.cat(rows))


@pytest.mark.parametrize("ties", [False, True])
def test_beginnings_of_the_order_are_admissible(ties: bool) -> None:
    """The first k labels agree with what is known and have their parents, for every possible k."""
    scores, known = draw(ties=ties)
    allowed = Admissible(known, CHAIN)
    order = allowed.order(scores)
    assert torch.equal(order.sort(1).values, torch.arange(5).expand(60, 5))
    assert len({(int(f), int(m)) for f, m in zip(allowed.fewest, allowed.most, strict=True)}) > 6
    for image in range(60):
        among = brute.admissible_states(known[image].tolist(), CHAIN)
        assert {sum(state) for state in among} == set(
            range(int(allowed.fewest[image]), int(allowed.most[image]) + 1)
        )
        for k in range(int(allowed.fewest[image]), int(allowed.most[image]) + 1):
            first = torch.zeros(5, dtype=torch.int64).scatter(0, order[image, :k], 1)
            assert tuple(first.tolist()) in among


def test_order_is_by_score_where_nothing_forbids_it() -> None:
    """Without known labels and rules: falling scores, equal ones as they stand."""
    allowed = Admissible(torch.full((2, 4), -1))
    scores = torch.tensor([[0.1, 0.7, 0.7, 0.2], [0.5, 0.5, 0.5, 0.5]])
    assert allowed.order(scores).tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]
    assert torch.equal(allowed.order(scores.expand(3, 2, 4))[1], allowed.order(scores))


def test_a_parent_stands_before_its_best_child() -> None:
    """It moves up no further than it must."""
    allowed = Admissible(torch.full((1, 5), -1), CHAIN)
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.6, 0.7]])
    assert allowed.order(scores).tolist() == [[0, 4, 2, 1, 3]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limits", [(0, None), (0, 2), (3, None), (2, 3), (5, 5), (0, 0)])
def test_fit(limits: tuple[int, int | None], ties: bool) -> None:
    """Any set becomes admissible, one that is so stays; limits bend to known labels only."""
    marginals, known = draw(20, ties=ties)
    allowed = Admissible(known, CHAIN, *limits)
    most = 5 if limits[1] is None else limits[1]
    agreeing = [brute.admissible_states(row, CHAIN) for row in known.tolist()]
    for state in brute.every_state(5):
        states = torch.tensor(state).expand(20, 5)
        fitted = allowed.fit(states, marginals)
        assert fitted.dtype == states.dtype
        for image, agree in enumerate(agreeing):
            assert tuple(fitted[image].tolist()) in agree
            within = [one for one in agree if limits[0] <= sum(one) <= most]
            size = int(fitted[image].sum())
            if within:
                assert limits[0] <= size <= most
            else:  # as near as can be
                sizes = [sum(one) for one in agree]
                assert size == (min(sizes) if most < min(sizes) else max(sizes))
            if state in within:
                assert tuple(fitted[image].tolist()) == state


def test_fit_keeps_and_adds_the_highest_marginals() -> None:
    """Of too many the likeliest stay, however unlikely; to too few the likeliest are added."""
    marginals = torch.tensor([[1e-20, 3e-20, 0.9, 2e-20]], dtype=torch.float64)
    unknown = torch.full((1, 4), -1)
    states = torch.tensor([[1, 1, 0, 1]])
    few = Admissible(unknown, Rules(), 0, 2).fit(states, marginals)
    many = Admissible(unknown, Rules(), 2).fit(torch.zeros_like(states), marginals)
    assert (few.tolist(), many.tolist()) == ([[0, 1, 0, 1]], [[0, 1, 1, 0]])


def test_fit_takes_many_sets_at_once() -> None:
    """Sets with an axis more are treated one by one."""
    marginals, known = draw()
    allowed = Admissible(known, CHAIN, 1, 2)
    states = torch.tensor(brute.every_state(5), dtype=torch.uint8)[:, None].expand(-1, 60, -1)
    fitted = allowed.fit(states, marginals)
    assert (fitted.dtype, fitted.shape) == (torch.uint8, (32, 60, 5))
    for one, wanted in zip(states, fitted, strict=True):
        assert torch.equal(allowed.fit(one, marginals), wanted)


@pytest.mark.parametrize("limits", [(0, None), (1, 3)])
def test_may_turn(limits: tuple[int, int | None]) -> None:
    """A label can be turned if that gives another admissible set."""
    _, known = draw(30)
    allowed = Admissible(known, CHAIN, *limits)
    for image in range(30):
        among = brute.admissible_states(known[image].tolist(), CHAIN, *limits)
        for state in among:
            may = allowed.rows(slice(image, image + 1)).may_turn(torch.tensor([state]))[0]
            for label in range(5):
                other = (*state[:label], 1 - state[label], *state[label + 1 :])
                assert bool(may[label]) == (other in among)
