"""The junction tree equals enumeration on every kind of sparse graph, and says what is too wide."""

import math
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mlcrf.crf import Potentials, check_known, full_edges, no_implications
from mlcrf.errors import PotentialsError, TooManyLabelsError
from mlcrf.inference import Exact, LogPartitionKind, junction_tree
from mlcrf.inference.junction_tree import JunctionTree
from tests.making import close, draw_known, expected
from tests.oracle import oracles

METHOD = JunctionTree(pairwise_marginals=True)
EXACT = Exact(pairwise_marginals=True)
GRID = [(3 * r + c, 3 * r + c + 1) for r in range(3) for c in range(2)]
GRID += [(3 * r + c, 3 * r + c + 3) for r in range(2) for c in range(3)]
GRAPHS: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "one label": (1, []),
    "no edge": (4, []),
    "two labels": (2, [(0, 1)]),
    "path": (7, [(1, 4), (4, 6), (0, 6), (0, 3), (2, 3), (2, 5)]),
    "star": (7, [(0, 3), (1, 3), (2, 3), (3, 4), (3, 5), (3, 6)]),
    "tree": (8, [(0, 1), (0, 2), (1, 5), (1, 7), (2, 3), (2, 4), (4, 6)]),
    "forest": (8, [(0, 5), (2, 5), (1, 7), (3, 7)]),  # and two labels without edge
    "cycle": (8, [(0, 4), (2, 4), (2, 7), (1, 7), (1, 5), (3, 5), (3, 6), (0, 6)]),
    "two cycles": (8, [(0, 2), (2, 4), (0, 4), (1, 3), (3, 5), (5, 7), (1, 7)]),
    "grid": (9, GRID),
    "ladder": (8, [(0, 1), (2, 3), (4, 5), (6, 7), *[(i, i + 2) for i in range(6)]]),
    "full": (8, [tuple(pair) for pair in full_edges(8).tolist()]),
}
for _seed in range(3):
    _pairs = full_edges(8)
    _kept = torch.rand(28, generator=torch.Generator().manual_seed(_seed)) < 0.4
    GRAPHS[f"random {_seed}"] = (8, [tuple(pair) for pair in _pairs[_kept].tolist()])
SOME = ["no edge", "tree", "cycle", "random 0"]


def make(
    graph: str,
    num_images: int = 2,
    *,
    unary: float = 2.0,
    pairwise: float = 1.5,
    varies: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Potentials:
    """Random potentials on one of the graphs; edges in the order that they are written in."""
    num_labels, pairs = GRAPHS[graph]
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) - 1

    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    shape = (num_images, len(edges)) if varies else (len(edges),)
    return Potentials(unary * draw(num_images, num_labels), edges, pairwise * draw(*shape))


def random_tree(num_labels: int, *, reach: int) -> Tensor:
    """Each label joined to one of those up to `reach` before it: the smaller, the deeper."""
    generator = torch.Generator().manual_seed(0)
    second = torch.arange(1, num_labels)
    back = (torch.rand(num_labels - 1, generator=generator) * second.clamp(max=reach)).long() + 1
    return torch.stack([second - back, second], 1)


@pytest.mark.parametrize("sizes", [(2.0, 1.5), (50.0, 5.0), (2.0, 30.0), (50.0, 30.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("graph", GRAPHS)
def test_equals_brute_force(graph: str, dtype: torch.dtype, sizes: tuple[float, float]) -> None:
    """Log Z, marginals, pairwise marginals and the best score are those of enumeration."""
    potentials = make(graph, unary=sizes[0], pairwise=sizes[1], dtype=dtype)
    truth, posterior = oracles(potentials), METHOD(potentials)
    assert posterior.log_partition_kind is LogPartitionKind.EXACT
    assert bool(posterior.converged.all())
    assert posterior.pairwise_marginals is not None
    fine = dtype == torch.float64
    log_z = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_z, (1e-13 if fine else 2e-7) * (log_z.abs() + 20))
    tolerance = 1e-12 if fine else 1e-7
    close(posterior.marginals, expected(truth, "marginals", log_z), tolerance)
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    close(posterior.pairwise_marginals, log_z.new_tensor(pairs).reshape(2, -1), tolerance)
    best = METHOD.map_states(potentials)
    assert best.dtype == torch.int64
    score = potentials.log_score(best)
    close(score, expected(truth, "best_score", log_z), 1e-12 if fine else 1e-4)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [0, 1, 3, 6])
@pytest.mark.parametrize("graph", ["path", "star", "cycle", "grid", "random 0", "random 1", "full"])
def test_known_labels_are_clamped(graph: str, num_unknown: int, varies: bool) -> None:
    """With some or all labels known, other ones for each image, it equals enumeration and Exact."""
    potentials = make(graph, 4, unary=3.0, pairwise=4.0, varies=varies)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), METHOD(potentials, known=known)
    marginals = expected(truth, "marginals", potentials.unary)
    close(posterior.marginals, marginals, 1e-12)
    clamped = known != -1
    assert torch.equal(posterior.marginals[clamped], known[clamped].double())
    close(posterior.log_partition, expected(truth, "log_partition", marginals), 1e-12)
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, marginals.new_tensor(pairs), 1e-12)
    other = EXACT(potentials, known=known)
    close(posterior.log_partition, other.log_partition, 1e-11)
    close(posterior.marginals, other.marginals, 1e-11)
    best = METHOD.map_states(potentials, known=known)
    assert torch.equal(best[clamped], known[clamped])
    close(potentials.log_score(best), expected(truth, "best_score", marginals), 1e-12)


@pytest.mark.parametrize("graph", ["path", "grid", "random 2"])
def test_finite_with_known_labels_at_large_potentials(graph: str) -> None:
    """Known labels against potentials of 50 and 30 give finite values and gradients, no NaN."""
    made = make(graph, 3, dtype=torch.float32)
    unary = (50 * made.unary.sign()).requires_grad_()
    pairwise = (30 * made.pairwise.sign()).requires_grad_()
    known = (unary < 0).long()  # the opposite of what they say
    known[:, ::3] = -1
    posterior = METHOD(Potentials(unary, made.edges, pairwise), known=known)
    slopes = torch.autograd.grad(posterior.log_partition.sum(), (unary, pairwise))
    for value in (posterior.log_partition, posterior.marginals, *slopes):
        assert bool(value.isfinite().all())
    assert bool(((posterior.marginals >= 0) & (posterior.marginals <= 1)).all())
    close(slopes[0], posterior.marginals, 1e-7)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("graph", SOME)
def test_gradient_of_log_partition(graph: str, clamp: bool, varies: bool) -> None:
    """It is the marginals and pairwise marginals, and finite differences agree."""
    made = make(graph, varies=varies)
    known = draw_known(made, num_unknown=2 if clamp else made.num_labels)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()

    def log_partition(unary: Tensor, pairwise: Tensor) -> Tensor:
        potentials = Potentials(unary, made.edges, pairwise)
        return JunctionTree()(potentials, known=known).log_partition

    inputs = (unary, pairwise) if len(made.edges) else (unary, pairwise.detach())
    assert torch.autograd.gradcheck(log_partition, inputs)
    posterior = METHOD(Potentials(unary, made.edges, pairwise), known=known)
    weights = torch.tensor([1.0, -3.0], dtype=torch.float64)
    slopes = torch.autograd.grad(posterior.log_partition, (unary, pairwise), weights)
    assert posterior.pairwise_marginals is not None
    by_image = weights[:, None] * posterior.pairwise_marginals
    close(slopes[0], weights[:, None] * posterior.marginals, 1e-12)
    close(slopes[1], by_image if varies else by_image.sum(0), 1e-12)


def test_gradient_of_one_potential_alone() -> None:
    """Unaries or couplings that need no gradient are not in the way of the other."""
    made = make("random 0")
    both = METHOD(made)
    unary = made.unary.clone().requires_grad_()
    JunctionTree()(Potentials(unary, made.edges, made.pairwise)).log_partition.sum().backward()
    close(unary.grad, both.marginals, 1e-12)
    pairwise = made.pairwise.clone().requires_grad_()
    JunctionTree()(Potentials(made.unary, made.edges, pairwise)).log_partition.sum().backward()
    assert both.pairwise_marginals is not None
    close(pairwise.grad, both.pairwise_marginals.sum(0), 1e-12)


def test_pairwise_marginals_only_if_asked_for() -> None:
    """They cost memory, N E, and are left out otherwise."""
    assert JunctionTree()(make("tree")).pairwise_marginals is None


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("chunk", [1, 150, 2**23])
def test_a_batch_equals_its_rows(
    chunk: int, clamp: bool, varies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image has the same beliefs alone, among others, and in whatever chunk it falls."""
    potentials = make("random 1", 7, varies=varies)
    known = draw_known(potentials, num_unknown=4) if clamp else None
    alone = [
        METHOD(potentials.rows(slice(i, i + 1)), known=None if known is None else known[i : i + 1])
        for i in range(7)
    ]
    best = METHOD.map_states(potentials, known=known)
    monkeypatch.setattr(junction_tree, "_CHUNK_ENTRIES", chunk)
    batch = METHOD(potentials, known=known)
    close(batch.log_partition, torch.cat([one.log_partition for one in alone]), 1e-12)
    close(batch.marginals, torch.cat([one.marginals for one in alone]), 1e-13)
    pairs = [one.pairwise_marginals for one in alone if one.pairwise_marginals is not None]
    assert batch.pairwise_marginals is not None
    close(batch.pairwise_marginals, torch.cat(pairs), 1e-13)
    assert torch.equal(METHOD.map_states(potentials, known=known), best)


@pytest.mark.parametrize("graph", SOME)
def test_no_images(graph: str) -> None:
    """No images give empty answers of the right shapes, and a gradient of nothing."""
    potentials = make(graph, 0)
    num_labels, num_edges = potentials.num_labels, len(potentials.edges)
    potentials.pairwise.requires_grad_()
    posterior = METHOD(potentials)
    assert posterior.marginals.shape == (0, num_labels)
    assert posterior.log_partition.shape == (0,)
    assert posterior.pairwise_marginals is not None
    assert posterior.pairwise_marginals.shape == (0, num_edges)
    posterior.log_partition.sum().backward()
    assert torch.equal(potentials.pairwise.grad, torch.zeros(num_edges, dtype=torch.float64))
    assert METHOD.map_states(potentials).shape == (0, num_labels)
    assert METHOD.sample(potentials, 3, torch.Generator()).shape == (3, 0, num_labels)


@pytest.mark.parametrize("chunk", [700, 2**23])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("graph", ["two labels", "star", "cycle", "random 0"])
def test_samples_follow_the_distribution(
    graph: str, clamp: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state is drawn as often as its probability says, by the chi-square test."""
    monkeypatch.setattr(junction_tree, "_CHUNK_ENTRIES", chunk)
    potentials = make(graph, 1, unary=1.0)
    known = draw_known(potentials, num_unknown=4) if clamp else None
    num_draws = 6000
    drawn = METHOD.sample(potentials, num_draws, torch.Generator().manual_seed(0), known=known)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (num_draws, *potentials.unary.shape)
    counts = Counter(map(tuple, drawn[:, 0].tolist()))
    probabilities = oracles(potentials, known)[0].probabilities
    assert set(counts) <= set(probabilities)
    rare = {state for state, p in probabilities.items() if p * num_draws < 5}
    cells = [({state}, p) for state, p in probabilities.items() if state not in rare]
    if rare:
        cells.append((rare, math.fsum(probabilities[state] for state in rare)))
    statistic = sum(
        (sum(counts[state] for state in states) - num_draws * p) ** 2 / (num_draws * p)
        for states, p in cells
    )
    assert len(cells) > 3
    assert statistic < chi2.ppf(0.999, len(cells) - 1)


def test_samples_of_several_images() -> None:
    """Images with couplings of their own are each drawn from their own distribution."""
    potentials = make("random 1", 3, unary=3.0, pairwise=3.0, varies=True, dtype=torch.float32)
    drawn = METHOD.sample(potentials, 4000, torch.Generator().manual_seed(1))
    wanted = METHOD(potentials)
    close(drawn.float().mean(0), wanted.marginals, 5 * 0.5 / math.sqrt(4000))
    first, second = potentials.edges.T
    together = (drawn[..., first] * drawn[..., second]).float().mean(0)
    assert wanted.pairwise_marginals is not None
    close(together, wanted.pairwise_marginals, 5 * 0.5 / math.sqrt(4000))


def test_same_seed_same_bits() -> None:
    """The generator decides the samples, whatever the global one is doing."""
    potentials = make("grid", 3)
    torch.manual_seed(1)
    drawn = METHOD.sample(potentials, 5, torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    assert torch.equal(METHOD.sample(potentials, 5, torch.Generator().manual_seed(0)), drawn)
    assert not torch.equal(METHOD.sample(potentials, 5, torch.Generator().manual_seed(1)), drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("graph", ["no edge", "tree", "cycle"])
def test_implications(graph: str, clamp: bool, dtype: torch.dtype) -> None:
    """They count as `as_couplings` has it, on edges and between labels that had none."""
    rules = torch.tensor([[1, 0], [3, 2], [0, 2]])  # 1 => 0 => 2, 3 => 2
    potentials = replace(make(graph, 4, unary=4.0, dtype=dtype), implications=rules)
    known = torch.full(potentials.unary.shape, -1)
    if clamp:
        known[0, 1], known[1, 2], known[2, 0] = 1, 0, 1
    coupled = replace(make(graph, 4, unary=4.0), implications=rules)
    coupled = replace(
        coupled, unary=potentials.unary.double(), pairwise=potentials.pairwise.double()
    )
    truth = oracles(coupled.as_couplings(), check_known(potentials, known))
    posterior = METHOD(potentials, known=known)
    fine = dtype == torch.float64
    log_z = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_z, 1e-11 if fine else 1e-5)
    close(posterior.marginals, expected(truth, "marginals", log_z), 1e-12 if fine else 1e-7)
    assert posterior.pairwise_marginals is not None
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    wanted = log_z.new_tensor(pairs).reshape(4, -1)
    close(posterior.pairwise_marginals, wanted, 1e-12 if fine else 1e-7)
    best = METHOD.map_states(potentials, known=known)
    drawn = METHOD.sample(potentials, 50, torch.Generator().manual_seed(0), known=known)
    for states in (best[None], drawn.long()):
        assert bool((states[..., rules[:, 0]] <= states[..., rules[:, 1]]).all())
    score = coupled.as_couplings().log_score(best)
    close(score, expected(truth, "best_score", coupled.unary), 1e-11)


def test_implications_widen_the_graph() -> None:
    """A rule between labels without edge counts towards the treewidth."""
    potentials = make("path")  # whose ends are 1 and 5
    JunctionTree(max_treewidth=1)(potentials)
    closed = replace(potentials, implications=torch.tensor([[1, 5]]))
    with pytest.raises(TooManyLabelsError, match="7 edges over 7 labels have treewidth 2"):
        JunctionTree(max_treewidth=1)(closed)
    assert len(no_implications()) == 0


def test_contradictory_known_labels_are_refused() -> None:
    """A child known without its parent is no state at all."""
    potentials = replace(make("tree", 1), implications=torch.tensor([[1, 0]]))
    known = torch.tensor([[0, 1, -1, -1, -1, -1, -1, -1]])
    with pytest.raises(PotentialsError, match="label 1 without label 0"):
        METHOD(potentials, known=known)


def test_relabelling_permutes() -> None:
    """Labels in another order, and so another elimination, have the same beliefs."""
    potentials = make("grid", 3)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    place = order.argsort()
    edges, turned = place[potentials.edges].sort(1).values, potentials.pairwise.flip(0)
    moved = Potentials(potentials.unary[:, order], edges.flip(0), turned)
    before, after = METHOD(potentials), METHOD(moved)
    close(after.log_partition, before.log_partition, 1e-12)
    close(after.marginals, before.marginals[:, order], 1e-13)
    assert before.pairwise_marginals is not None
    assert after.pairwise_marginals is not None
    close(after.pairwise_marginals.flip(1), before.pairwise_marginals, 1e-13)
    assert torch.equal(METHOD.map_states(moved), METHOD.map_states(potentials)[:, order])


def test_too_wide() -> None:
    """It says the treewidth, the limit and what to do, in every way of calling."""
    potentials = make("full")
    narrow = JunctionTree(max_treewidth=6)
    calls = (
        lambda: narrow(potentials),
        lambda: narrow.map_states(potentials),
        lambda: narrow.sample(potentials, 1, torch.Generator()),
    )
    message = (
        r"28 edges over 8 labels have treewidth 7 .*the limit is 6.*Use --inference gibbs or "
        r"mean-field, choose fewer edges .*or raise max_treewidth"
    )
    for call in calls:
        with pytest.raises(TooManyLabelsError, match=message):
            call()
    JunctionTree(max_treewidth=7)(potentials)


@pytest.mark.parametrize("reach", [4999, 50, 3])
def test_tree_of_five_thousand_labels_takes_seconds(reach: int) -> None:
    """Broad or deep trees take seconds, first call included; log Z = score - log p of any state."""
    edges = random_tree(5000, reach=reach)
    generator = torch.Generator().manual_seed(2)
    unary = torch.randn(64, 5000, generator=generator)
    potentials = Potentials(unary, edges, torch.randn(4999, generator=generator))
    start = time.perf_counter()
    posterior = METHOD(potentials)
    assert time.perf_counter() - start < 10
    assert posterior.pairwise_marginals is not None
    # p(y) = prod of edges' marginals / prod of labels' marginals^(degree - 1), on a tree
    single, pair = posterior.marginals.double(), posterior.pairwise_marginals.double()
    degree = torch.bincount(edges.reshape(-1), minlength=5000)
    none = 1 - single[:, edges[:, 0]] - single[:, edges[:, 1]] + pair  # of both labels
    log_prob = none.log().sum(1) - ((degree - 1) * (1 - single).log()).sum(1)
    close(posterior.log_partition.double(), -log_prob, 0.05)  # marginals are rounded to float32
    best = METHOD.map_states(potentials)
    assert bool((potentials.log_score(best) > potentials.log_score(unary > 0)).all())


def test_wide_and_sparse_equals_exact() -> None:
    """Twenty labels, beyond the oracle, have the values of Exact."""
    generator = torch.Generator().manual_seed(5)
    edges = full_edges(20)
    edges = edges[torch.rand(len(edges), generator=generator) < 0.25]
    unary = 3 * torch.randn(3, 20, generator=generator, dtype=torch.float64)
    pairwise = 3 * torch.randn(len(edges), generator=generator, dtype=torch.float64)
    potentials = Potentials(unary, edges, pairwise)
    known = draw_known(potentials, num_unknown=16)
    for given in (None, known):
        ours, theirs = METHOD(potentials, known=given), EXACT(potentials, known=given)
        close(ours.log_partition, theirs.log_partition, 1e-10)
        close(ours.marginals, theirs.marginals, 1e-10)
        assert ours.pairwise_marginals is not None
        assert theirs.pairwise_marginals is not None
        close(ours.pairwise_marginals, theirs.pairwise_marginals, 1e-10)
        best = METHOD.map_states(potentials, known=given)
        assert torch.equal(best, EXACT.map_states(potentials, known=given))
