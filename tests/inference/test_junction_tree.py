"""The junction tree: its samples, chunks and limits, and large trees."""

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError, TooManyLabelsError
from mlcrf.inference import Exact, junction_tree
from mlcrf.inference.junction_tree import JunctionTree
from tests.inference.methods import make
from tests.making import close, draw_known
from tests.oracle import oracles

METHOD = JunctionTree(pairwise_marginals=True)
EXACT = Exact(pairwise_marginals=True)


def random_tree(num_labels: int, *, reach: int) -> Tensor:
    """Each label joined to one of those up to `reach` before it: the smaller, the deeper."""
    generator = torch.Generator().manual_seed(0)
    second = torch.arange(1, num_labels)
    back = (torch.rand(num_labels - 1, generator=generator) * second.clamp(max=reach)).long() + 1
    return torch.stack([second - back, second], 1)


def test_pairwise_marginals_only_if_asked_for() -> None:
    """They cost memory, N E, and are left out otherwise."""
    assert JunctionTree()(make("path")).pairwise_marginals is None


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("chunk", [1, 150])
def test_chunks_do_not_matter(chunk: int, varies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has the same beliefs in whatever chunk it falls."""
    potentials = make("random", 7, varies=varies)
    known = draw_known(potentials, num_unknown=4)
    whole, best = METHOD(potentials, known=known), METHOD.map_states(potentials, known=known)
    monkeypatch.setattr(junction_tree, "_CHUNK_ENTRIES", chunk)
    parts = METHOD(potentials, known=known)
    close(parts.log_partition, whole.log_partition, 1e-12)
    close(parts.marginals, whole.marginals, 1e-13)
    close(parts.pairwise_marginals, whole.pairwise_marginals, 1e-13)
    assert torch.equal(METHOD.map_states(potentials, known=known), best)


@pytest.mark.parametrize(
    ("graph", "clamp", "chunk"),
    [
        ("two labels", False, 700),
        ("star", True, 2**23),
        ("cycle", False, 2**23),
        ("cycle", True, 700),
        ("sparse", False, 700),
    ],
)
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
    potentials = make("random", 3, unary=3.0, pairwise=3.0, varies=True, dtype=torch.float32)
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


def test_implications_widen_the_graph() -> None:
    """A rule between labels without edge counts towards the treewidth."""
    potentials = make("path")  # whose ends are 1 and 5
    JunctionTree(max_treewidth=1)(potentials)
    closed = make("path", rules=[(1, 5)])
    with pytest.raises(TooManyLabelsError, match="7 edges over 7 labels have treewidth 2"):
        JunctionTree(max_treewidth=1)(closed)


def test_too_wide() -> None:
    """It says the treewidth, the limit and what to do, in every way of calling."""
    potentials = make("eight labels")
    narrow = JunctionTree(max_treewidth=6)
    calls = (
        lambda: narrow(potentials),
        lambda: narrow.map_states(potentials),
        lambda: narrow.sample(potentials, 1, torch.Generator()),
    )
    message = (
        r"28 edges over 8 labels have treewidth 7 .*the limit is 6.*Use --inference gibbs or "
        r"mean-field, choose fewer edges .* raise max_treewidth"
    )
    for call in calls:
        with pytest.raises(TooManyLabelsError, match=message):
            call()
    JunctionTree(max_treewidth=7)(potentials)


@pytest.mark.parametrize("reach", [4999, 3])
def test_tree_of_five_thousand_labels(reach: int) -> None:
    """For broad and deep trees log Z = score - log p of any state."""
    edges = random_tree(5000, reach=reach)
    generator = torch.Generator().manual_seed(2)
    unary = torch.randn(64, 5000, generator=generator)
    potentials = Potentials(unary, edges, torch.randn(4999, generator=generator))
    posterior = METHOD(potentials)
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


def test_an_order_may_be_given() -> None:
    """It gives the same answers, is refused where it is too wide, and is followed."""
    grid = [(5 * r + c, 5 * r + c + 1) for r in range(5) for c in range(4)]
    grid += [(at, at + 5) for at in range(20)]
    edges = torch.tensor(sorted(grid))
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(3, 25, generator=generator, dtype=torch.float64)
    potentials = Potentials(unary, edges, torch.ones(len(edges), dtype=torch.float64))
    by_columns = tuple(5 * r + c for c in range(5) for r in range(5))
    shuffled = tuple(torch.randperm(25, generator=generator).tolist())
    known = draw_known(potentials, num_unknown=18)
    for given in (None, known):
        wanted = JunctionTree()(potentials, known=given)
        for order, width in ((by_columns, 5), (shuffled, 16)):
            ours = JunctionTree(width, order=order)(potentials, known=given)
            close(ours.marginals, wanted.marginals, 1e-12)
            close(ours.log_partition, wanted.log_partition, 1e-11)
    with pytest.raises(TooManyLabelsError, match="given order of 25 labels is wider than 6"):
        JunctionTree(6, order=shuffled)(potentials)
    few = draw_known(potentials, num_unknown=12)
    narrow = JunctionTree(4, order=by_columns)  # of what is left
    wanted = JunctionTree()(potentials, known=few)
    close(narrow(potentials, known=few).marginals, wanted.marginals, 1e-12)


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (0, 1, 3), (0, 1, 2, 3)])
def test_an_order_names_each_label_once(order: tuple[int, ...]) -> None:
    """Anything else is refused."""
    with pytest.raises(PotentialsError, match="order of elimination: expected each of 3 labels"):
        JunctionTree(order=order)(make("three labels"))
