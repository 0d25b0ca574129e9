"""Ranked label sets are those of brute force: their mass ahead, their number, what all have."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.inference.ranking import EnumeratingRanker, all_sets, can_enumerate
from mlcrf.rules import Limit, Rules
from tests.oracle import Oracle, State, oracles

REACHES = (0.0, 0.4, 0.9, 0.999)
RULES = {
    "none": Rules(),
    "implications": Rules(((0, 1), (2, 1))),
    "at most one": Rules((), (Limit((0, 2, 3), 0, 1),)),
    "soft": Rules(((0, 3),), (Limit((1, 2, 3), 1, 2, 1.5),)),
}


def drawn(labels: int, rules: Rules = Rules(), *, varies: bool = False) -> Potentials:
    generator = torch.Generator().manual_seed(labels)
    edges = full_edges(labels)
    size = (4, len(edges)) if varies else (len(edges),)
    unary = 2 * torch.randn(4, labels, generator=generator, dtype=torch.float64)
    pairwise = torch.randn(size, generator=generator, dtype=torch.float64)
    return Potentials(unary, edges, pairwise, rules)


def allowed(rules: Rules, state: State) -> float:
    """The log-weight that rules give a label set."""
    if any(state[child] and not state[parent] for child, parent in rules.pairs):
        return -math.inf
    weight = 0.0
    for limit in rules.limits:
        if not limit.least <= sum(state[label] for label in limit.labels) <= limit.most:
            weight -= math.inf if limit.weight is None else limit.weight
    return weight


def ranked(oracle: Oracle, rules: Rules) -> list[tuple[float, State]]:
    """Every possible label set with its probability, falling."""
    scores = {s: v + allowed(rules, s) for s, v in oracle.scores.items()}
    top = max(scores.values())
    total = math.fsum(math.exp(v - top) for v in scores.values())
    return sorted(
        ((math.exp(v - top) / total, s) for s, v in scores.items() if v > -math.inf), reverse=True
    )


def first(sets: list[tuple[float, State]], reach: float, share: float) -> list[State]:
    """The sets whose mass ahead and share of their own is within reach; ties belong together."""
    found: list[State] = []
    for p, state in sets:
        ahead = math.fsum(q for q, _ in sets if q > p * (1 + 1e-7))
        equal = math.fsum(q for q, _ in sets if abs(q - p) <= p * 1e-7)
        if ahead + share * equal <= reach + 1e-9 or ahead == 0:
            found.append(state)
    return found


def compare(potentials: Potentials, rules: Rules, known: Tensor | None = None) -> None:
    ranker = EnumeratingRanker(potentials)
    sets = [ranked(one, rules) for one in oracles(potentials, known)]
    for at in (0, 1, -1):
        chosen = [one[at % len(one)] for one in sets]
        states = torch.tensor([state for _, state in chosen])
        standing = ranker.standing(potentials, states, known=known)
        for image, (p, _) in enumerate(chosen):
            ahead = math.fsum(q for q, _ in sets[image] if q > p * (1 + 1e-7))
            equal = math.fsum(q for q, _ in sets[image] if abs(q - p) <= p * 1e-7)
            assert float(standing.ahead[image]) == pytest.approx(ahead, abs=1e-9)
            assert float(standing.equal[image]) == pytest.approx(equal, abs=1e-9)
    for reach, share in product(REACHES, (1.0, 0.3)):
        shares = torch.full((len(sets),), share, dtype=torch.float64)
        leaders = ranker.leaders(potentials, reach, shares, known=known)
        assert leaders.is_exact
        for image, own in enumerate(sets):
            family = torch.tensor(first(own, reach, share))
            assert int(leaders.count[image]) == len(family)
            assert torch.equal(leaders.present[image], family.bool().all(0))
            assert torch.equal(leaders.absent[image], ~family.bool().any(0))
            among = set(map(tuple, family.tolist()))
            mass = math.fsum(p for p, state in own if state in among)
            assert float(leaders.mass[image]) == pytest.approx(mass, abs=1e-8)


@pytest.mark.parametrize("varies", [False, True], ids=["shared", "by image"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("labels", [4, 7])
def test_equals_brute_force(labels: int, rules: Rules, varies: bool) -> None:
    """With rules, couplings of each image, and nothing or something known."""
    potentials = drawn(labels, rules, varies=varies)
    compare(potentials, rules)
    known = torch.full((4, labels), -1)
    known[1, 1], known[2, 0], known[3, 3] = 1, 0, 0
    known = torch.from_numpy(rules.close(known.numpy()))
    compare(potentials, rules, known)


@pytest.mark.parametrize("labels", [1, 2, 8])
def test_equals_brute_force_of_few_and_many(labels: int) -> None:
    compare(drawn(labels), Rules())


def test_equal_sets_belong_together() -> None:
    """Without couplings and with equal unaries, sets of one size tie; all or none are leaders."""
    unary = torch.full((1, 6), -0.7, dtype=torch.float64)
    potentials = Potentials(unary, full_edges(6), torch.zeros(15, dtype=torch.float64))
    compare(potentials, Rules())
    ranker, share = EnumeratingRanker(potentials), torch.ones(1, dtype=torch.float64)
    reaches = [*(one / 50 for one in range(50)), 0.99, 0.999]
    counts = {int(ranker.leaders(potentials, one, share).count) for one in reaches}
    assert counts == {1, 7, 22, 42, 57, 63}


def test_extreme_scores_are_ranked() -> None:
    """Sums that leave the range of float64, so that log space is used."""
    potentials = drawn(6)
    large = Potentials(400 * potentials.unary, potentials.edges, 500 * potentials.pairwise)
    compare(large, Rules())


def test_millions_of_leaders_are_counted() -> None:
    """Of 2^20 nearly equal sets nine tenths; no label is sure."""
    generator = torch.Generator().manual_seed(0)
    unary = 1e-3 * torch.randn(1, 20, generator=generator, dtype=torch.float64)
    edges = full_edges(20)
    potentials = Potentials(unary, edges, torch.zeros(len(edges), dtype=torch.float64))
    share = torch.ones(1, dtype=torch.float64)
    leaders = EnumeratingRanker(potentials).leaders(potentials, 0.9, share)
    assert 0.899 < float(leaders.mass) <= 0.9
    assert float(leaders.count) / 2**20 == pytest.approx(0.9, abs=0.01)
    assert not (leaders.present | leaders.absent).any()


def test_all_sets_are_counted_and_not_listed() -> None:
    """Also of 60 labels; rules and known labels leave fewer."""
    potentials = drawn(60)
    leaders = all_sets(potentials)
    assert leaders.count.tolist() == [2.0**60] * 4
    assert not (leaders.present | leaders.absent).any()
    ruled = drawn(5, Rules(((0, 1), (2, 1))))
    known = torch.tensor([[-1] * 5, [1, 1, -1, -1, -1], [0, 0, 0, -1, -1], [-1, -1, -1, 0, 0]])
    assert all_sets(ruled, known=known).count.tolist() == [20, 8, 4, 5]
    reached = EnumeratingRanker(ruled).leaders(ruled, 1.0, torch.ones(4), known=known)
    assert torch.equal(reached.count, all_sets(ruled, known=known).count)
    assert torch.equal(reached.present, known == 1)


def test_what_can_be_enumerated() -> None:
    """Up to 24 labels; up to 16 where each image has couplings of its own."""
    assert can_enumerate(drawn(24)) and not can_enumerate(drawn(25))
    assert can_enumerate(drawn(16, varies=True)) and not can_enumerate(drawn(17, varies=True))
    assert can_enumerate(drawn(25, Rules(((0, 1), (1, 2), (2, 3)))))


def test_other_couplings_are_refused() -> None:
    potentials = drawn(5)
    ranker = EnumeratingRanker(potentials)
    other = Potentials(potentials.unary, potentials.edges, 2 * potentials.pairwise)
    with pytest.raises(PotentialsError, match="pairwise"):
        ranker.standing(other, torch.zeros(4, 5))
