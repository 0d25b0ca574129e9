"""The search for the best label vector, and the bounds that say how good it is."""

import dataclasses
import math
import time
from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.implications import Implications
from mlcrf.inference import map_search
from mlcrf.inference.map_search import MapSearch
from mlcrf.inference.messages.dual_bound import DualBound, ScoreBound, roof_dual, semidefinite_bound
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import Oracle, oracles

SEARCH = MapSearch(starts=4, sweeps=40)
SURE = dataclasses.replace(SEARCH, branch=10)
CHAIN = Implications(((1, 0), (2, 1)))  # 2 => 1 => 0


def best(potentials: Potentials, known: Tensor | None = None) -> Tensor:
    """The oracle's best scores, float64 (N,)."""
    truth = oracles(potentials.as_couplings(), known)
    return torch.tensor([one.best_score for one in truth], dtype=torch.float64)


def tree(num_labels: int, *, size: float, num_images: int = 4, seed: int = 0) -> Potentials:
    """Random trees that all images share, couplings of either sign that they do not."""
    generator = torch.Generator().manual_seed(seed)
    parents = [
        int(torch.randint(0, label, (), generator=generator)) for label in range(1, num_labels)
    ]
    edges = torch.tensor(list(zip(parents, range(1, num_labels), strict=True)))

    def uniform(width: int) -> Tensor:
        return 2 * torch.rand(num_images, width, generator=generator, dtype=torch.float64) - 1

    return Potentials(uniform(num_labels), edges, size * uniform(num_labels - 1))


def best_of_tree(potentials: Potentials) -> Tensor:
    """By passing maxima from the leaves, whose parents have smaller numbers, to the root."""
    gain = [column.clone() for column in potentials.unary.T]
    without = [torch.zeros_like(column) for column in gain]
    for (parent, child), coupling in reversed(
        list(zip(potentials.edges.tolist(), potentials.pairwise.T, strict=True))
    ):
        gain[parent] += torch.maximum(without[child], gain[child] + coupling)
        without[parent] += torch.maximum(without[child], gain[child])
    return torch.maximum(without[0], gain[0])


def attractive(num_labels: int, *, seed: int = 0) -> Potentials:
    """All pairs attract, and unaries of either sign make both values worth while."""
    made = make_potentials(6, num_labels, unary=2.0, pairwise=0.8, varies=True, seed=seed)
    return Potentials(made.unary - 0.2 * num_labels, made.edges, made.pairwise.abs())


def best_half_integral(one: Oracle) -> float:
    """Best value of the edges' relaxation, whose vertices have labels of 0, 1/2 and 1."""
    values = []
    for y in product((0.0, 0.5, 1.0), repeat=len(one.unary)):
        total = [u * v for u, v in zip(one.unary, y, strict=True)]
        for first, second in combinations(range(len(y)), 2):
            coupling = one.couplings.get((first, second), 0.0)
            both = min(y[first], y[second]) if coupling > 0 else max(0, y[first] + y[second] - 1)
            total.append(coupling * both)
        values.append(math.fsum(total))
    return max(values)


def cut(num_labels: int, edges: Tensor) -> Potentials:
    """A model whose score is the number of edges between present and absent labels."""
    degree = torch.bincount(edges.reshape(-1), minlength=num_labels).double()
    return Potentials(degree[None], edges, torch.full((len(edges),), -2.0, dtype=torch.float64))


def cycle(num_labels: int) -> Tensor:
    ring = [(label, label + 1) for label in range(num_labels - 1)]
    return torch.tensor([*ring, (0, num_labels - 1)])


BOUNDS: dict[str, Callable[[Potentials, int], ScoreBound]] = {
    "roof": lambda potentials, sweeps: roof_dual(potentials, max_sweeps=sweeps),
    "semidefinite": lambda potentials, sweeps: semidefinite_bound(potentials, sweeps=sweeps),
}


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("name", list(BOUNDS))
def test_every_iterate_is_a_bound(name: str, varies: bool, size: float) -> None:
    """After any number of sweeps no score exceeds the bound, and it is of some use."""
    potentials = make_potentials(12, 6, unary=3.0, pairwise=size, varies=varies)
    wanted = best(potentials)
    for sweeps in (0, 1, 2, 5, 50):
        value = BOUNDS[name](potentials, sweeps).value
        assert bool((value >= wanted - 1e-10).all())
    every = potentials.unary.clamp_min(0).sum(1) + potentials.pairwise.clamp_min(0).sum(-1)
    assert bool((value <= every + 1e-9).all())


@pytest.mark.parametrize("name", list(BOUNDS))
def test_bounds_fall_with_sweeps(name: str) -> None:
    """More sweeps give no worse a bound, and at last no better one: both have converged."""
    potentials = make_potentials(12, 8, unary=2.0, pairwise=1.0, varies=True)
    few, many, more = (BOUNDS[name](potentials, sweeps).value for sweeps in (3, 300, 600))
    assert bool((many <= few + 1e-9).all())
    assert float((few - many).max()) > 1e-3
    close(many, more, 1e-5)


@pytest.mark.parametrize("edges", [0, 10])
def test_bounds_are_tight_without_couplings(edges: int) -> None:
    """At zero coupling the bound is the sum of the positive unaries."""
    unary = make_potentials(6, 5, unary=4.0).unary
    potentials = Potentials(unary, full_edges(5)[:edges], torch.zeros(edges).double())
    wanted = unary.clamp_min(0).sum(1)
    close(roof_dual(potentials).value, wanted, 1e-12)
    close(semidefinite_bound(potentials, sweeps=200).value, wanted, 1e-9)
    bound = DualBound()(potentials)
    close(bound.value, wanted, 1e-12)
    assert torch.equal(bound.leaning > 0, unary > 0)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("num_labels", [2, 3, 8, 60, 400])
def test_roof_is_tight_on_trees(num_labels: int, size: float) -> None:
    """On a tree the roof dual is the best score."""
    potentials = tree(num_labels, size=size)
    wanted = best_of_tree(potentials)
    if num_labels <= 8:
        close(wanted, best(potentials), 1e-10)
    close(roof_dual(potentials).value, wanted, 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_roof_is_tight_where_couplings_attract(seed: int) -> None:
    """Without a coupling that repels the roof dual is the best score."""
    potentials = attractive(9, seed=seed)
    states = SEARCH.map_states(potentials)
    assert 0 < int(states.sum()) < states.numel()  # neither answer is trivial
    close(roof_dual(potentials).value, best(potentials), 1e-5)


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_roof_is_the_best_of_its_relaxation(size: float) -> None:
    """Where couplings disagree it is the best half-integral score, and above the best score."""
    potentials = make_potentials(8, 6, unary=1.0, pairwise=size, varies=True)
    wanted = [best_half_integral(one) for one in oracles(potentials)]
    value = roof_dual(potentials).value
    close(value, value.new_tensor(wanted), 1e-5)
    assert float((value - best(potentials)).max()) > 0.05


@pytest.mark.parametrize(("num_labels", "largest"), [(3, 2), (5, 4), (7, 6)])
def test_bounds_of_odd_cycles(num_labels: int, largest: int) -> None:
    """The largest cut of an odd cycle: the roof counts all edges, vectors bend by pi (1 - 1/n)."""
    potentials = cut(num_labels, cycle(num_labels))
    assert float(best(potentials)) == largest
    assert float(roof_dual(potentials).value) == pytest.approx(num_labels)
    semidefinite = num_labels * (1 + math.cos(math.pi / num_labels)) / 2
    bound = semidefinite_bound(potentials, sweeps=500)
    assert float(bound.value) == pytest.approx(semidefinite, abs=1e-5)
    assert float(DualBound()(potentials).value) < num_labels - 0.2


def test_semidefinite_bound_of_a_dense_model_is_tighter() -> None:
    """With 12 labels all coupled, of size 1, it leaves less than half of the roof's gap."""
    potentials = make_potentials(8, 12, pairwise=1.0, varies=True)
    wanted = best(potentials)
    roof, other = (BOUNDS[name](potentials, 100).value - wanted for name in BOUNDS)
    both = DualBound()(potentials).value - wanted
    assert 0 < float(other.mean()) < 0.5 * float(roof.mean())
    assert bool((both <= torch.minimum(roof, other) + 0.02).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implied", [False, True])
@pytest.mark.parametrize("num_unknown", [7, 4, 1, 0])
def test_dual_bound_with_known_labels(num_unknown: int, implied: bool, dtype: torch.dtype) -> None:
    """It bounds the states that agree, is exact where at most one label is unknown, and leans."""
    potentials = make_potentials(10, 7, unary=2.0, pairwise=1.5, dtype=dtype)
    known = draw_known(potentials, num_unknown=num_unknown)
    if implied:
        potentials = dataclasses.replace(potentials, implications=CHAIN)
        known[:, :3] = known[:, :3].sort(1, descending=True).values  # breaks none
    bound = DualBound()(potentials, known=known)
    wanted = best(potentials, known)
    assert bound.value.dtype == bound.leaning.dtype == torch.float64
    assert bool((bound.value >= wanted - 1e-4).all())
    if num_unknown <= 1:
        close(bound.value, wanted, 1e-4)
    assert bool((bound.leaning.abs() <= 1 + 1e-9).all())
    assert bool((bound.leaning == 2 * known - 1)[known != -1].all())


def test_a_bound_of_a_batch_is_that_of_its_rows() -> None:
    """An image's bound is its own, whatever the others are, with known labels too."""
    potentials = make_potentials(5, 6, pairwise=1.0, varies=True)
    known = draw_known(potentials, num_unknown=4)
    whole = DualBound()(potentials, known=known)
    for row in range(5):
        one = slice(row, row + 1)
        alone = DualBound()(potentials.rows(one), known=known[one])
        close(alone.value, whole.value[one], 1e-6)


@pytest.mark.parametrize("num_labels", [3, 10])
@pytest.mark.parametrize("size", [0.5, 2.0, 30.0])
def test_finds_the_best_and_proves_it(num_labels: int, size: float) -> None:
    """On random models it finds the oracle's best score, in all of these, and says so."""
    potentials = make_potentials(8, num_labels, unary=3.0, pairwise=size, varies=True)
    wanted = best(potentials)
    result = SURE(potentials)
    close(result.score, wanted, 1e-9)
    close(potentials.log_score(result.states), wanted, 1e-9)
    assert result.states.dtype == torch.int64
    assert bool(result.certain.all())
    assert bool((result.upper_bound >= wanted - 1e-9).all())
    assert bool((result.gap >= 0).all())
    assert bool((result.gap <= 1e-4).all())
    alone = MapSearch().map_states(potentials)
    close(potentials.log_score(alone), wanted, 1e-9)


@pytest.mark.parametrize("branch", [0, 1, 3])
def test_less_branching_is_still_honest(branch: int) -> None:
    """At any depth score <= best <= bound, and what is called certain is the best."""
    potentials = make_potentials(16, 9, pairwise=2.0, varies=True)
    result = dataclasses.replace(SEARCH, starts=1, sweeps=0, branch=branch)(potentials)
    wanted = best(potentials)
    assert bool((result.score <= wanted + 1e-9).all())
    assert bool((result.upper_bound >= wanted - 1e-9).all())
    assert torch.equal(result.certain, result.gap <= 1e-4)
    close(result.gap, result.upper_bound - result.score, 1e-12)
    deeper = dataclasses.replace(SEARCH, branch=branch + 1)(potentials)
    assert bool((deeper.upper_bound <= result.upper_bound + 1e-9).all())
    if branch == 0:
        assert not bool(result.certain.all())
        assert float(deeper.gap.mean()) < 0.8 * float(result.gap.mean())


def test_trials_mend_a_poor_search() -> None:
    """One start and no chain miss some of the best states; trials find them."""
    potentials = make_potentials(40, 10, pairwise=3.0, varies=True)
    poor = MapSearch(starts=1, sweeps=0)
    wanted = best(potentials)
    assert bool((potentials.log_score(poor.map_states(potentials)) < wanted - 1e-6).any())
    result = dataclasses.replace(poor, branch=10)(potentials)
    close(result.score, wanted, 1e-9)
    close(potentials.log_score(result.states), wanted, 1e-9)


@pytest.mark.parametrize("implied", [False, True])
def test_chains_find_more_than_climbing(implied: bool) -> None:
    """Two chains end at the best state far more often than climbing from where they start."""
    potentials = make_potentials(30, 24, unary=2.0, pairwise=0.7, varies=True)
    if implied:
        rules = Implications(tuple((label, label + 12) for label in range(12)))
        potentials = dataclasses.replace(potentials, implications=rules)

    def scores(starts: int, sweeps: int) -> Tensor:
        states = MapSearch(starts=starts, sweeps=sweeps).map_states(potentials)
        return potentials.log_score(states)

    top = scores(8, 100) - 1e-6
    reached = [float((scores(2, sweeps) >= top).double().mean()) for sweeps in (0, 60)]
    assert reached[1] >= 0.8
    assert reached[1] >= reached[0] + 0.1


def test_a_trial_keeps_the_bound_of_what_it_is_part_of() -> None:
    """Where a relaxation is looser for a part than for the whole, the bound does not rise."""

    class Loose(DualBound):
        def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> ScoreBound:
            assert known is not None
            bound = super().__call__(potentials, known=known)
            return ScoreBound(bound.value + 10 * (known != -1).sum(1), bound.leaning)

    potentials = make_potentials(6, 8, pairwise=2.0)
    once, deep = (MapSearch(bound=Loose(), branch=branch)(potentials) for branch in (0, 2))
    assert bool((deep.upper_bound <= once.upper_bound + 1e-9).all())


def test_what_a_bound_leads_to_is_climbed() -> None:
    """States that come from a rounded relaxation are local maxima too."""
    potentials = make_potentials(200, 10, pairwise=3.0, varies=True)
    poor = MapSearch(starts=1, sweeps=0)
    result = poor(potentials)
    assert bool((potentials.log_score(poor.map_states(potentials)) < result.score - 1e-6).any())
    for label in range(10):
        turned = result.states.clone()
        turned[:, label] = 1 - turned[:, label]
        assert bool((potentials.log_score(turned) <= result.score + 1e-9).all())


@pytest.mark.parametrize(("varies", "implied"), [(False, True), (True, False)])
@pytest.mark.parametrize("num_unknown", [8, 5, 1, 0])
def test_known_labels_are_kept(num_unknown: int, varies: bool, implied: bool) -> None:
    """The best among the states that agree is found; no free label's change betters it."""
    potentials = make_potentials(10, 8, unary=2.0, pairwise=2.0, varies=varies)
    known = draw_known(potentials, num_unknown=num_unknown)
    if implied:
        potentials = dataclasses.replace(potentials, implications=CHAIN)
        known[:, :3] = known[:, :3].sort(1, descending=True).values
    result = SURE(potentials, known=known)
    assert bool(((result.states == known) | (known == -1)).all())
    close(result.score, best(potentials, known), 1e-9)
    assert bool(result.certain.all())
    if implied:
        assert bool((result.states[:, [1, 2]] <= result.states[:, [0, 1]]).all())
    for label in range(8):
        turned = result.states.clone()
        turned[:, label] = torch.where(known[:, label] == -1, 1 - turned[:, label], known[:, label])
        assert bool((potentials.log_score(turned) <= result.score + 1e-9).all())


def test_rules_over_many_labels_are_kept() -> None:
    """Where every label implies the last, the cost of 100 hides no smaller difference."""
    made = make_potentials(6, 9, unary=1.5, pairwise=0.5)
    implications = Implications(tuple((label, 8) for label in range(8)))
    potentials = dataclasses.replace(made, implications=implications)
    result = SURE(potentials)
    close(result.score, best(potentials), 1e-9)
    assert bool(result.certain.all())
    assert 0 < int(result.states[:, 8].sum()) < 6 or bool((result.states.sum(1) > 1).any())


def test_thirty_two_labels_are_certain() -> None:
    """Beyond enumeration, branch and bound proves what annealing found, in seconds."""
    potentials = make_potentials(2, 32, unary=2.0, pairwise=0.4, varies=True)
    assert not bool(MapSearch()(potentials).certain.any())
    result = MapSearch(branch=20)(potentials)
    assert bool(result.certain.all())
    known = torch.full((2, 32), -1)
    known[:, 0] = 1 - result.states[:, 0]  # the best of the others is worse
    other = MapSearch()(potentials, known=known)
    assert bool((other.score < result.score).all())


def test_two_thousand_labels_in_seconds() -> None:
    """On a large tree the answer is the best, and certain by the roof dual alone."""
    potentials = tree(2000, size=2.0)
    start = time.perf_counter()
    result = MapSearch(starts=2, sweeps=20)(potentials)
    assert time.perf_counter() - start < 30
    close(result.score, best_of_tree(potentials), 1e-4)
    assert bool(result.certain.all())


def test_large_sparse_models_have_a_gap() -> None:
    """Of 500 labels with couplings that disagree, score and bound are within a seventh."""
    generator = torch.Generator().manual_seed(0)
    edges = full_edges(500)
    edges = edges[torch.rand(len(edges), generator=generator) < 10 / 500]
    unary = 2 * torch.rand(2, 500, generator=generator) - 1
    potentials = Potentials(unary, edges, 2 * torch.rand(len(edges), generator=generator) - 1)
    result = MapSearch(starts=2, sweeps=50)(potentials)
    assert bool((result.gap > 0).all())
    assert bool((result.gap < result.score / 7).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_large_potentials(dtype: torch.dtype) -> None:
    """Unaries of 50 and couplings of 30, in either type, are searched and bounded as others."""
    made = make_potentials(8, 7, pairwise=30.0, dtype=dtype)
    potentials = Potentials(50 * made.unary.sign(), made.edges, made.pairwise)
    result = SURE(potentials)
    close(result.score, best(potentials), 1e-3)
    assert bool(result.upper_bound.isfinite().all())
    assert bool(result.certain.all())


def test_scale_does_not_matter() -> None:
    """A thousandfold, or a thousandth, of the scores has the same best states."""
    potentials = make_potentials(8, 10, pairwise=2.0)
    states = SEARCH.map_states(potentials)
    for factor in (1e-3, 1e3):
        scaled = Potentials(
            factor * potentials.unary, potentials.edges, factor * potentials.pairwise
        )
        close(potentials.log_score(SEARCH.map_states(scaled)), potentials.log_score(states), 1e-9)


def test_same_seed_same_bits() -> None:
    """The seed decides every bit, and the global generator is left alone."""
    potentials = make_potentials(20, 24, pairwise=2.0, varies=True)
    poor = MapSearch(starts=3, sweeps=3)
    torch.manual_seed(1)
    before = poor(potentials)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    after = poor(potentials)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(before.states, after.states)
    assert torch.equal(before.upper_bound, after.upper_bound)
    other = dataclasses.replace(poor, seed=1)(potentials)
    assert not torch.equal(other.states, before.states)


def test_chunks_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in chunks of one have the results that they have together."""
    potentials = make_potentials(6, 7, pairwise=2.0, varies=True)
    known = draw_known(potentials, num_unknown=6)
    whole = SURE(potentials, known=known)
    monkeypatch.setattr(map_search, "_CHUNK_ENTRIES", 1)
    alone = SURE(potentials, known=known)
    close(alone.score, whole.score, 1e-12)
    assert torch.equal(alone.certain, whole.certain)


@pytest.mark.parametrize("varies", [False, True])
def test_nothing_to_search(varies: bool) -> None:
    """No image, and no edge, are fine."""
    shape = (0, 3) if varies else (3,)
    empty = SURE(Potentials(torch.zeros(0, 3), full_edges(3), torch.zeros(shape)))
    assert empty.states.shape == (0, 3)
    assert empty.upper_bound.shape == empty.gap.shape == (0,)
    shape = (2, 0) if varies else (0,)
    unary = torch.tensor([[1.0], [-1.0]])
    lone = SURE(Potentials(unary, full_edges(1), torch.zeros(shape)))
    assert lone.states.tolist() == [[1], [0]]
    assert lone.score.tolist() == lone.upper_bound.tolist() == [1.0, 0.0]
    wanted = expected(
        oracles(Potentials(unary, full_edges(1), torch.zeros(0))), "best_score", unary
    )
    close(lone.score.float(), wanted, 0.0)
