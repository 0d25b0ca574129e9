"""The properties of every inference method, by the table in `methods.py`."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import Tensor

from mlcrf import inference
from mlcrf.choices import InferenceName
from mlcrf.crf import Potentials, check_known
from mlcrf.errors import PotentialsError
from tests.inference.methods import (
    ANY,
    BELIEFS,
    EXACT,
    GRAPHS,
    NO_EDGE,
    NONE,
    ROWS,
    TREES,
    Row,
    enumerated,
    make,
    rows,
    solved,
    usual_graph,
)
from tests.making import close, draw_known

MILD = (2.0, 1.5)
SIZES = (MILD, (50.0, 5.0), (2.0, 30.0), (50.0, 30.0))
RULES = [(1, 0), (3, 2), (0, 2)]  # 1 => 0 => 2, 3 => 2


def follows_protocol(value: object) -> bool:
    return (
        isinstance(value, type)
        and is_dataclass(value)
        and all(hasattr(value, part) for part in ("name", "map_states", "__call__"))
    )


def test_every_method_has_a_row() -> None:
    """Every exported method and every name of a choice has one."""
    exported = {value for value in vars(inference).values() if follows_protocol(value)}
    assert len(exported) >= 10
    assert {type(row.method) for row in ROWS} >= exported
    names = {row.method.name for row in ROWS}
    assert names >= {name.value for name in InferenceName if name is not InferenceName.AUTO}


def right_cases() -> list[object]:
    """Row, graph, sizes and type, wherever a method is to equal brute force."""
    cases = []
    for row in ROWS:
        for graph, (kind, _, _) in GRAPHS.items():
            for sizes in SIZES if kind >= TREES and not row.random else (MILD,):
                for dtype in (torch.float64, torch.float32):
                    coarse = row.log_z is EXACT and sizes in (MILD, SIZES[-1])
                    fine = dtype == torch.float64
                    if kind <= min(row.right_on, row.takes) and (fine or coarse):
                        name = f"{row.method.name}-{graph}-{sizes[0]:g}-{sizes[1]:g}-{dtype}"
                        cases.append(pytest.param(row, graph, sizes, dtype, id=name))
    return cases


@pytest.mark.parametrize(("row", "graph", "sizes", "dtype"), right_cases())
def test_equals_brute_force(
    row: Row, graph: str, sizes: tuple[float, float], dtype: torch.dtype
) -> None:
    """Marginals of labels and pairs and log Z are those of enumeration: bounds are tight there."""
    potentials, truth = solved(graph, *sizes, dtype)
    posterior = row.method(potentials)
    assert posterior.log_partition_kind is row.log_z
    assert bool(posterior.converged.all())
    assert posterior.advice == ""
    sampled, fine = row.random and GRAPHS[graph][0] >= TREES, dtype == torch.float64
    off: float | Tensor = row.spread(posterior) if sampled else 1e-9 if fine else 1e-6
    close(posterior.marginals, truth.marginals, off)
    scale = truth.log_partition.abs() + 20
    close(posterior.log_partition, truth.log_partition, 0.15 if sampled else scale * off / 10)
    assert (posterior.pairwise_marginals is not None) == row.pairs
    if posterior.pairwise_marginals is not None:
        close(posterior.pairwise_marginals, truth.pairs, 0.06 if row.random else off)
    if row.log_z is EXACT:
        best = potentials.log_score(row.method.map_states(potentials))
        close(best, truth.best_score, 1e-11 if fine else 1e-3)


@pytest.mark.parametrize("graph", ["forest", "six labels"])
@rows(lambda row: row.method.name == "convex-bp")
def test_convex_at_zero_coupling_shares_each_unary_among_its_edges(row: Row, graph: str) -> None:
    """Alone among all it is wrong there: sigmoid(unary / (1 + degree)), and a loose bound."""
    made = make(graph, 4, unary=4.0)
    potentials = Potentials(made.unary, made.edges, torch.zeros_like(made.pairwise))
    posterior = row.method(potentials)
    degree = torch.bincount(made.edges.flatten(), minlength=made.num_labels)
    q = (made.unary / (1 + degree)).sigmoid()
    close(posterior.marginals, q, 1e-11)
    close(posterior.pairwise_marginals, q[:, made.edges].prod(-1), 1e-11)
    softplus = torch.nn.functional.softplus
    terms = (1 + degree) * softplus(made.unary / (1 + degree))
    close(posterior.log_partition, terms.sum(-1), 1e-10)
    assert bool((posterior.log_partition > softplus(made.unary).sum(-1) + 1).all())


@rows(lambda row: row.takes is ANY)
def test_marginals_are_off_by_what_the_table_says(row: Row) -> None:
    """At couplings of 1/2 the mean error is within its limit, and not far within."""
    potentials, truth = solved("ten labels", 1.5, 0.5, torch.float64)
    error = float((row.method(potentials).marginals - truth.marginals).abs().mean())
    assert row.off / 4 <= error <= row.off + 1e-9


@pytest.mark.parametrize("sizes", [(2.0, 0.7), (2.0, 1.5), (2.0, 4.0)])
@pytest.mark.parametrize("graph", ["sparse", "five labels"])
@rows(lambda row: row.equation is not None)
def test_converged_beliefs_meet_their_equation(
    row: Row, graph: str, sizes: tuple[float, float]
) -> None:
    """Converged beliefs satisfy the equation that defines the method."""
    potentials = make(graph, 6, unary=sizes[0], pairwise=sizes[1], varies=True)
    posterior = row.method(potentials)
    assert bool(posterior.converged.all()) or sizes[1] > 1
    assert row.equation is not None
    residual = row.equation(potentials, posterior)[posterior.converged]
    assert len(residual)
    assert float(residual.abs().max()) < 1e-6


@pytest.mark.parametrize(("clamp", "varies"), [(False, False), (True, False), (True, True)])
@rows()
def test_a_batch_equals_its_rows(row: Row, clamp: bool, varies: bool) -> None:
    """An image has the same beliefs, states and flag alone as among others, couplings too."""
    method = row.cut(200)
    batch = make(usual_graph(row), 3, unary=3.0, pairwise=2.5, varies=varies)
    known = draw_known(batch, num_unknown=3 if clamp else batch.num_labels)
    whole, best = method(batch, known=known), method.map_states(batch, known=known)
    alone = []
    for at in range(3):
        one = slice(at, at + 1)
        pairwise = batch.pairwise[at] if varies else batch.pairwise  # shared by a batch of one
        lone = Potentials(batch.unary[one], batch.edges, pairwise)
        alone.append(method(lone, known=known[one]))
        assert torch.equal(method.map_states(lone, known=known[one]), best[one])
    marginals = torch.cat([one.marginals for one in alone])
    log_z = torch.cat([one.log_partition for one in alone])
    close(whole.marginals, marginals, 2 * row.spread(whole) if row.random else 1e-7)
    close(whole.log_partition, log_z, 0.3 if row.random else 1e-7)
    if row.pairs:
        pairs = [one.pairwise_marginals for one in alone if one.pairwise_marginals is not None]
        close(whole.pairwise_marginals, torch.cat(pairs), 0.1 if row.random else 1e-7)
    assert torch.equal(whole.converged, torch.cat([one.converged for one in alone]))


@rows()
def test_relabelling_permutes(row: Row) -> None:
    """Labels and edges in another order have the same beliefs in that order."""
    potentials = make(usual_graph(row), 3, pairwise=0.8)
    order = torch.randperm(potentials.num_labels, generator=torch.Generator().manual_seed(0))
    edges = order.argsort()[potentials.edges].sort(1).values.flip(0)
    moved = Potentials(potentials.unary[:, order], edges, potentials.pairwise.flip(0))
    before, after = row.method(potentials), row.method(moved)
    close(after.marginals, before.marginals[:, order], 2 * row.spread(after))
    close(after.log_partition, before.log_partition, 0.15 if row.random else 1e-9)
    if row.pairs:
        turned = after.pairwise_marginals.flip(1)
        close(turned, before.pairwise_marginals, 0.06 if row.random else 1e-9)
    best = row.method.map_states(potentials)[:, order]
    close(moved.log_score(row.method.map_states(moved)), moved.log_score(best), 1e-9)


@rows()
def test_same_seed_same_bits(row: Row) -> None:
    """Twice the same call gives the same bits; the global generator is neither asked nor moved."""
    potentials, method = make(usual_graph(row), 3, pairwise=2.0), row.cut(50)
    torch.manual_seed(1)
    before, states = method(potentials), method.map_states(potentials)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    after, again = method(potentials), method.map_states(potentials)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(states, again)
    for one in fields(before):
        value, other = getattr(before, one.name), getattr(after, one.name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


@rows(lambda row: row.random)
def test_another_seed_other_draws(row: Row) -> None:
    """The seed of a sampler is not ignored."""
    potentials = make("sparse")
    before, other = row.method(potentials), replace(row.method, seed=1)(potentials)
    assert not torch.equal(before.marginals, other.marginals)
    assert not torch.equal(before.log_partition, other.log_partition)
    assert not torch.equal(before.samples, other.samples)


@pytest.mark.parametrize(
    ("size", "dtype"), [(0.5, torch.float32), (30.0, torch.float32), (30.0, torch.float64)]
)
@rows()
def test_finite_at_large_potentials(row: Row, size: float, dtype: torch.dtype) -> None:
    """Unaries of 50, couplings of 30, rules, and known labels against all of it: no infinity.

    Beliefs are probabilities of the type that came in; gradients are finite.
    """
    graph, method = usual_graph(row), row.cut(40)
    for rules in (None, RULES) if row.takes is ANY else (None,):
        made = make(graph, 6, rules=rules or (), dtype=dtype)
        unary = (50 * made.unary.sign()).requires_grad_()
        pairwise = (size * made.pairwise.sign()).requires_grad_()
        against = (unary < 0).long()
        against[:, :4] = -1
        for known in (torch.full_like(against, -1), against):
            potentials = Potentials(unary, made.edges, pairwise, made.rules)
            posterior = method(potentials, known=known)
            assert posterior.marginals.dtype == posterior.log_partition.dtype == dtype
            pairs = posterior.pairwise_marginals
            for beliefs in (posterior.marginals, *([] if pairs is None else [pairs])):
                assert beliefs.dtype == dtype
                assert bool(((beliefs >= 0) & (beliefs <= 1)).all())
            assert bool(posterior.log_partition.isfinite().all())
            total = posterior.log_partition.sum()
            if row.gradient is BELIEFS:
                total = total + posterior.marginals.sum()
            if row.gradient is not NONE:
                wanted = (unary, pairwise) if len(pairwise) else (unary,)
                for gradient in torch.autograd.grad(total, wanted):
                    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("size", [0.5, 2.0])
@rows(lambda row: not row.random)
def test_float32_agrees_with_float64(row: Row, size: float) -> None:
    """Single precision gives the same beliefs to four digits."""
    method = row.cut(100, 0.0)
    fine = make(usual_graph(row), 4, unary=3.0, pairwise=size)
    coarse = Potentials(fine.unary.float(), fine.edges, fine.pairwise.float())
    one, other = method(fine), method(coarse)
    close(other.marginals.double(), one.marginals, 1e-4)
    close(other.log_partition.double(), one.log_partition, 1e-5 * one.log_partition.abs())


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("graph", ["no edge", "cycle"])
@rows(lambda row: row.takes is ANY)
def test_implications_are_respected(row: Row, graph: str, clamp: bool) -> None:
    """No child without its parent: in beliefs, states and samples; what is known is closed."""
    potentials = make(graph, 4, unary=3.0, pairwise=0.5, rules=RULES)
    known = torch.full(potentials.unary.shape, -1)
    if clamp:
        known[0, 1], known[1, 2], known[2, 0] = 1, 0, 1
    closed = check_known(potentials, known)
    method = row.cut(200, 1e-9)
    truth, posterior = enumerated(potentials, closed), method(potentials, known=known)
    right = row.right_on is ANY or (row.right_on is TREES and graph == "no edge")
    if right:
        off = row.spread(posterior) if row.random else 1e-8
        close(posterior.marginals, truth.marginals, off)
        close(posterior.log_partition, truth.log_partition, 0.3 if row.random else 1e-8)
        if row.pairs:
            close(posterior.pairwise_marginals, truth.pairs, 0.1 if row.random else off)
    else:
        coupled = method(potentials.as_couplings(), known=closed)
        close(posterior.marginals, coupled.marginals, 1e-12)
        close(posterior.log_partition, coupled.log_partition, 1e-12)
    if row.pairs:
        assert posterior.pairwise_marginals.shape == (4, len(potentials.edges))
    close(posterior.marginals[closed >= 0], closed[closed >= 0].double(), 1e-15)
    child, parent = potentials.rules.array.T
    above = posterior.marginals[:, child] - posterior.marginals[:, parent]
    assert bool((above[posterior.converged] <= (0.02 if row.random else 1e-8)).all())
    drawn = [] if posterior.samples is None else [posterior.samples.long()]
    if hasattr(method, "sample"):
        generator = torch.Generator().manual_seed(0)
        drawn.append(method.sample(potentials, 40, generator, known=known).long())
    for states in [method.map_states(potentials, known=known), *drawn]:
        assert bool((states[..., child] <= states[..., parent]).all())
        assert bool(((states == closed) | (closed == -1)).all())


@rows(lambda row: row.takes is ANY)
def test_contradictory_known_labels_are_refused(row: Row) -> None:
    """A child known without its parent is no state at all."""
    potentials = make("no edge", 2, rules=[(1, 0)])
    known = torch.tensor([[-1, -1, -1, -1], [0, 1, -1, -1]])
    for call in (row.method, row.method.map_states):
        with pytest.raises(PotentialsError, match=r"image 1 has label 1 without label 0"):
            call(potentials, known=known)


@rows(lambda row: row.max_labels > 140 and row.takes is ANY)
def test_many_labels_are_done_as_few(row: Row) -> None:
    """Beyond 128 labels couplings are rows of neighbours: the beliefs are those of the matrix.

    Twenty images of a small model, side by side and shuffled, are one image of a large one.
    """
    small = make("sparse", 20, pairwise=0.8, varies=True)
    known = draw_known(small, num_unknown=6)
    order = torch.randperm(140, generator=torch.Generator().manual_seed(0))
    place = order.argsort().reshape(20, 7)
    edges = place[:, small.edges].reshape(-1, 2).sort(1).values
    unary = small.unary.reshape(1, -1)[:, order]
    large = Potentials(unary, edges, small.pairwise.reshape(-1))
    wanted = row.method(small, known=known)
    posterior = row.method(large, known=known.reshape(1, -1)[:, order])
    assert bool(posterior.converged.all())
    ours = posterior.marginals[:, place.flatten()].reshape(20, 7)
    close(ours, wanted.marginals, 2 * row.spread(wanted) if row.random else 1e-8)
    total = wanted.log_partition.sum()[None]
    close(posterior.log_partition, total, 1.0 if row.random else 1e-7)
    if row.pairs:
        pairs = posterior.pairwise_marginals.reshape(20, -1)
        close(pairs, wanted.pairwise_marginals, 0.15 if row.random else 1e-8)
    best = row.method.map_states(large, known=known.reshape(1, -1)[:, order])
    states = row.method.map_states(small, known=known)
    if not row.random:  # the best of many chains, label by label, is better than that of all
        close(large.log_score(best), small.log_score(states).sum()[None], 1e-9)


@rows()
def test_no_images(row: Row) -> None:
    """No image has beliefs about none, in the right shapes, and a gradient of nothing."""
    graph = usual_graph(row)
    for varies in (False, True):
        potentials = make(graph, 0, varies=varies)
        num_labels, num_edges = potentials.num_labels, len(potentials.edges)
        potentials.unary.requires_grad_()
        posterior = row.method(potentials)
        assert posterior.marginals.shape == (0, num_labels)
        assert posterior.log_partition.shape == posterior.converged.shape == (0,)
        assert posterior.advice == ""
        if row.pairs:
            assert posterior.pairwise_marginals.shape == (0, num_edges)
        if posterior.samples is not None:
            assert posterior.samples.shape[1:] == (0, num_labels)
        if hasattr(row.method, "sample"):
            drawn = row.method.sample(potentials, 3, torch.Generator())
            assert drawn.shape == (3, 0, num_labels)
        assert row.method.map_states(potentials).shape == (0, num_labels)
        if row.gradient is not NONE:
            posterior.log_partition.sum().backward()


@rows(lambda row: row.takes is NO_EDGE)
def test_edges_and_rules_are_refused(row: Row) -> None:
    """The closed form is for labels that know nothing of each other, and says what they do."""
    for call in (row.method, row.method.map_states):
        with pytest.raises(PotentialsError, match="expected no edge, got 10"):
            call(make("five labels"))
        with pytest.raises(PotentialsError, match="expected no rule, got 3"):
            call(make("no edge", rules=RULES))


@rows(lambda row: row.iterates)
def test_says_when_it_has_not_converged(row: Row) -> None:
    """Cut short, it says for how many images, after how many sweeps, and what to do."""
    posterior = row.cut(2, 1e-10)(make("five labels", 3, pairwise=3.0))
    assert not bool(posterior.converged.any())
    said = f"{row.method.name}: 3 of 3 images had not converged after 2 sweeps"
    assert posterior.advice.startswith(said)
    assert "Try --inference exact, junction-tree or gibbs of train" in posterior.advice
