"""TAP and the message-passing methods: Bethe, tree-reweighted, convex."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mlcrf.crf import Potentials, check_known, full_edges
from mlcrf.errors import SettingsError
from mlcrf.inference import InferenceMethod, LogPartitionKind, Posterior, tree_reweighted
from mlcrf.inference.bethe import Bethe
from mlcrf.inference.convex import (
    ConvexBeliefPropagation,
    dual_value,
    start_messages,
    update,
)
from mlcrf.inference.messages import softplus
from mlcrf.inference.tap import Tap
from mlcrf.inference.tree_reweighted import TreeReweighted, tree_shares
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import oracles

FINE = {"max_sweeps": 1500, "tolerance": 1e-12}
TAP = Tap(**FINE)
BETHE = Bethe(**FINE)
TREES = TreeReweighted(**FINE)
CONVEX = ConvexBeliefPropagation(**FINE)
MESSAGES = (BETHE, TREES, CONVEX)
ALL = (TAP, *MESSAGES)
USUAL = (Tap(), Bethe(), TreeReweighted(), ConvexBeliefPropagation())


def methods(*chosen: InferenceMethod) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", chosen, ids=[one.name for one in chosen])


def pairs_of(posterior: Posterior) -> Tensor:
    assert posterior.pairwise_marginals is not None
    return posterior.pairwise_marginals


def log_partitions(potentials: Potentials, known: Tensor | None = None) -> Tensor:
    return expected(oracles(potentials, known), "log_partition", potentials.unary)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1


def random_graph(num_labels: int, num_edges: int, seed: int) -> Tensor:
    """Some of the pairs, in random order."""
    order = torch.randperm(
        num_labels * (num_labels - 1) // 2, generator=torch.Generator().manual_seed(seed)
    )
    return full_edges(num_labels)[order[:num_edges]]


def make_forest(
    num_images: int, num_labels: int, *, pairwise: float, varies: bool = False, seed: int = 0
) -> Potentials:
    """A random tree over all labels but the last, which has no edge."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(num_labels - 1, generator=generator)
    parents = [int(torch.randint(0, i, (1,), generator=generator)) for i in range(1, len(names))]
    ends = [[int(names[i]), int(names[p])] for i, p in enumerate(parents, start=1)]
    edges = torch.tensor(ends).sort(1).values
    shape = (num_images, len(edges)) if varies else (len(edges),)
    return Potentials(
        3 * draw(generator, num_images, num_labels), edges, pairwise * draw(generator, *shape)
    )


def make_sparse(*, pairwise: float, num_edges: int = 9, seed: int = 3) -> Potentials:
    """Seven labels with cycles, not full."""
    generator = torch.Generator().manual_seed(seed)
    edges = random_graph(7, num_edges, seed)
    return Potentials(2 * draw(generator, 4, 7), edges, pairwise * draw(generator, num_edges))


def test_softplus_is_right_to_the_last_digit() -> None:
    """Where torch's own is x, from 20 on, log (1 + exp(-x)) still counts."""
    x = torch.tensor([-800.0, -30.0, 0.0, 15.0, 21.0, 25.0, 800.0], dtype=torch.float64)
    wanted = [max(v, 0.0) + math.log1p(math.exp(-abs(v))) for v in x.tolist()]
    close(softplus(x), x.new_tensor(wanted), 1e-15 * (1 + x.abs()))


@methods(TAP, BETHE, TREES)
def test_zero_coupling_is_exact(method: InferenceMethod) -> None:
    """Edges without coupling change nothing: bounds are tight, pairs are products."""
    made = make_potentials(4, 5, unary=4.0)
    potentials = Potentials(made.unary, made.edges, torch.zeros_like(made.pairwise))
    posterior = method(potentials)
    q = potentials.unary.sigmoid()
    close(posterior.marginals, q, 1e-12)
    close(pairs_of(posterior), q[:, made.edges].prod(-1), 1e-12)
    close(posterior.log_partition, torch.nn.functional.softplus(made.unary).sum(-1), 1e-12)
    assert bool(posterior.converged.all())


def test_convex_at_zero_coupling_shares_each_unary_among_all_labels() -> None:
    """On a full graph without coupling it gives sigmoid(unary / L) and a bound above log Z."""
    made = make_potentials(4, 5, unary=4.0)
    potentials = Potentials(made.unary, made.edges, torch.zeros_like(made.pairwise))
    posterior = CONVEX(potentials)
    q = (potentials.unary / 5).sigmoid()
    close(posterior.marginals, q, 1e-11)
    close(pairs_of(posterior), q[:, made.edges].prod(-1), 1e-11)
    each = torch.nn.functional.softplus(potentials.unary / 5)
    close(posterior.log_partition, 5 * each.sum(-1), 1e-11)
    log_z = torch.nn.functional.softplus(potentials.unary).sum(-1)
    assert bool((posterior.log_partition > log_z + 1).all())


@methods(*ALL)
def test_without_edges_all_are_exact(method: InferenceMethod) -> None:
    """Labels that no edge touches have sigmoid(unary); an empty batch has empty beliefs."""
    potentials = make_potentials(4, 5, unary=4.0, pairwise=0.0)
    posterior = method(potentials)
    close(posterior.marginals, potentials.unary.sigmoid(), 1e-12)
    log_z = torch.nn.functional.softplus(potentials.unary).sum(-1)
    close(posterior.log_partition, log_z, 1e-12)
    assert pairs_of(posterior).shape == (4, 0)
    empty = method(make_potentials(0, 5))
    assert empty.marginals.shape == (0, 5)
    assert empty.log_partition.shape == empty.converged.shape == (0,)
    assert pairs_of(empty).shape == (0, 10)
    assert empty.advice == ""


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [8, 5, 2, 0])
@pytest.mark.parametrize("size", [1.0, 8.0])
@methods(BETHE, TREES)
def test_forests_are_exact(
    method: InferenceMethod, size: float, num_unknown: int, varies: bool
) -> None:
    """Marginals of labels and pairs and log Z are those of enumeration, clamped labels and all."""
    potentials = make_forest(4, 8, pairwise=size, varies=varies)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), method(potentials, known=known)
    assert bool(posterior.converged.all())
    wanted = expected(truth, "marginals", potentials.unary)
    close(posterior.marginals, wanted, 1e-9)
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    close(pairs_of(posterior), wanted.new_tensor(pairs), 1e-9)
    close(posterior.log_partition, expected(truth, "log_partition", wanted), 1e-9)


@pytest.mark.parametrize("num_unknown", [1, 0])
@methods(*ALL)
def test_all_but_one_clamped_is_exact(method: InferenceMethod, num_unknown: int) -> None:
    """With at most one label unknown every method is exact, at any coupling."""
    potentials = make_potentials(6, 5, pairwise=5.0)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), method(potentials, known=known)
    close(posterior.marginals, expected(truth, "marginals", potentials.unary), 1e-12)
    log_z = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_z, 1e-12)
    assert bool(posterior.converged.all())


@pytest.mark.parametrize("varies", [False, True])
@methods(TAP, BETHE, CONVEX)
def test_clamping_equals_conditioning(method: InferenceMethod, varies: bool) -> None:
    """Beliefs with known labels are those of the CRF over the unknown ones alone."""
    potentials = make_potentials(3, 6, pairwise=1.0, varies=varies)
    known = torch.tensor([[-1, 1, -1, -1, 0, -1]]).repeat(3, 1)
    kept = torch.tensor([0, 2, 3, 5])
    matrix = potentials.pairwise_matrix()
    edges = full_edges(4)
    pairwise = matrix[..., kept[edges[:, 0]], kept[edges[:, 1]]]
    rest = Potentials(potentials.unary[:, kept] + matrix[..., 1, kept], edges, pairwise)
    whole, alone = method(potentials, known=known), method(rest)
    close(whole.marginals[:, kept], alone.marginals, 1e-10)
    assert whole.marginals[:, [1, 4]].tolist() == [[1.0, 0.0]] * 3
    close(whole.log_partition, alone.log_partition + potentials.unary[:, 1], 1e-9)
    where = [potentials.edges.tolist().index([int(kept[a]), int(kept[b])]) for a, b in edges]
    close(pairs_of(whole)[:, where], pairs_of(alone), 1e-10)
    for edge, (first, second) in enumerate(potentials.edges.tolist()):
        if {first, second} & {1, 4}:  # an end is known
            q = whole.marginals
            close(pairs_of(whole)[:, edge], q[:, first] * q[:, second], 1e-12)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("num_unknown", [7, 4])
@methods(TREES, CONVEX)
def test_upper_bounds_hold_after_any_sweep(
    method: TreeReweighted | ConvexBeliefPropagation, size: float, num_unknown: int
) -> None:
    """Cut off after any number of sweeps, the bound is above log Z; it is far off at first."""
    for potentials in (make_potentials(6, 7, unary=3.0, pairwise=size), make_sparse(pairwise=size)):
        known = draw_known(potentials, num_unknown=num_unknown)
        log_z = log_partitions(potentials, known)
        bounds = []
        for sweeps in (0, 1, 2, 3, 5, 10, 300):
            posterior = type(method)(max_sweeps=sweeps)(potentials, known=known)
            assert posterior.log_partition_kind is LogPartitionKind.UPPER
            assert bool((posterior.log_partition >= log_z - 1e-9).all())
            bounds.append(posterior.log_partition)
        assert bool((bounds[-1] <= bounds[0] + 1e-9).all())


def test_tree_reweighted_bound_is_below_the_convex_one() -> None:
    """Its entropy is smaller, so at convergence its bound is tighter, yet not tight on cycles."""
    potentials = make_potentials(6, 6, unary=2.0, pairwise=0.5)
    log_z = log_partitions(potentials)
    trees, convex = TREES(potentials), CONVEX(potentials)
    assert bool((trees.log_partition < convex.log_partition - 1).all())
    assert bool((trees.log_partition > log_z + 1e-4).all())
    assert bool((trees.log_partition < log_z + 0.5).all())


def entropy(*probabilities: float) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def free_energies(
    potentials: Potentials,
    posterior: Posterior,
    edge_counts: list[float],
    label_counts: list[float],
) -> Iterator[float]:
    """Expected score and counted entropies of each image's beliefs, in plain Python."""
    pairwise = potentials.pairwise.expand(potentials.num_images, -1).tolist()
    for unary, coupling, b, both in zip(
        potentials.unary.tolist(),
        pairwise,
        posterior.marginals.tolist(),
        pairs_of(posterior).tolist(),
        strict=True,
    ):
        total = sum(u * q for u, q in zip(unary, b, strict=True))
        total += sum(c * entropy(q, 1 - q) for c, q in zip(label_counts, b, strict=True))
        for edge, (i, j) in enumerate(potentials.edges.tolist()):
            pair = both[edge]
            total += coupling[edge] * pair
            total += edge_counts[edge] * entropy(
                pair, b[i] - pair, b[j] - pair, 1 - b[i] - b[j] + pair
            )
        yield total


def counting_numbers(
    method: InferenceMethod, potentials: Potentials
) -> tuple[list[float], list[float]]:
    """Of edges and labels, from the definition of each method."""
    edges = potentials.edges.tolist()
    if isinstance(method, TreeReweighted):
        of_edge = spanning_tree_counts(edges, potentials.num_labels)
    else:
        of_edge = [1.0] * len(edges)
    if isinstance(method, ConvexBeliefPropagation):
        return of_edge, [1.0] * potentials.num_labels
    touching = [
        sum(c for c, ends in zip(of_edge, edges, strict=True) if label in ends)
        for label in range(potentials.num_labels)
    ]
    return of_edge, [1 - c for c in touching]


def spanning_trees(edges: list[list[int]], num_labels: int) -> Iterator[tuple[int, ...]]:
    """Every spanning tree of a connected graph, as edge numbers."""
    for chosen in combinations(range(len(edges)), num_labels - 1):
        group = list(range(num_labels))
        for edge in chosen:
            first, second = (group[end] for end in edges[edge])
            group = [first if one == second else one for one in group]
        if len(set(group)) == 1:
            yield chosen


def spanning_tree_counts(edges: list[list[int]], num_labels: int) -> list[float]:
    """Share of the spanning trees that each edge is in."""
    trees = list(spanning_trees(edges, num_labels))
    return [sum(edge in tree for tree in trees) / len(trees) for edge in range(len(edges))]


@pytest.mark.parametrize("size", [0.7, 1.5])
@methods(*MESSAGES)
def test_log_partition_is_the_free_energy_of_the_beliefs(
    method: InferenceMethod, size: float
) -> None:
    """At convergence the dual meets the primal: score plus entropies with the counting numbers."""
    for potentials in (make_potentials(3, 5, pairwise=size), make_sparse(pairwise=size)):
        posterior = method(potentials)
        assert bool(posterior.converged.all())
        numbers = counting_numbers(method, potentials)
        wanted = torch.tensor(list(free_energies(potentials, posterior, *numbers))).double()
        close(posterior.log_partition, wanted, 1e-6)


@pytest.mark.parametrize("size", [0.7, 1.5])
@methods(*MESSAGES)
def test_converged_beliefs_are_stationary(method: InferenceMethod, size: float) -> None:
    """Beliefs of pairs and labels meet the fixed point: odds ratios, and one equation a label.

    b_ij has log odds ratio pairwise_ij / c_ij; and (c_i + sum_j c_ij) logit b_i is unary_i plus
    sum_j c_ij [logit b_i - logit b(y_i | y_j = 0)].
    """
    for potentials in (make_potentials(3, 5, pairwise=size), make_sparse(pairwise=size)):
        posterior = method(potentials)
        assert bool(posterior.converged.all())
        of_edge, of_label = (
            torch.tensor(c, dtype=torch.float64) for c in counting_numbers(method, potentials)
        )
        b, both = posterior.marginals, pairs_of(posterior)
        first, second = potentials.edges.T
        only_first, only_second = b[:, first] - both, b[:, second] - both
        neither = 1 - b[:, first] - b[:, second] + both
        log_ratio = (both * neither / (only_first * only_second)).log()
        close(log_ratio, (potentials.pairwise / of_edge).expand_as(log_ratio), 1e-8)
        left, right = (of_label * b.logit()), potentials.unary
        for ends, only in ((first, only_first), (second, only_second)):
            given_absent = (only / neither).log()
            right = right.index_add(1, ends, -of_edge * given_absent)
        close(left, right, 1e-8)


@pytest.mark.parametrize("size", [0.3, 1.0])
def test_converged_tap_meets_its_equation(size: float) -> None:
    """logit q_i = unary_i + sum_j J_ij q_j + (1/2 - q_i) sum_j J_ij^2 q_j (1 - q_j)."""
    potentials = make_potentials(5, 6, unary=2.0, pairwise=size)
    posterior = TAP(potentials)
    assert bool(posterior.converged.all())
    q, matrix = posterior.marginals, potentials.pairwise_matrix()
    reaction = (0.5 - q) * ((q * (1 - q)) @ matrix.square())
    close(q.logit(), potentials.unary + q @ matrix + reaction, 1e-9)


def test_tap_is_right_to_second_order() -> None:
    """Halving the couplings divides the error of log Z by eight: what is left out is cubic."""
    made = make_potentials(6, 6, unary=1.0, pairwise=0.1)

    def error(scale: float) -> float:
        potentials = Potentials(made.unary, made.edges, scale * made.pairwise)
        return float((TAP(potentials).log_partition - log_partitions(potentials)).abs().max())

    assert error(1.0) / error(0.5) == pytest.approx(8, rel=0.1)


def test_tap_does_not_trust_what_it_settles_on_beyond_its_reach() -> None:
    """Much damping makes it settle where the expansion fails; it does not say converged."""
    made = make_potentials(12, 10, pairwise=10.0)
    posterior = Tap(max_sweeps=3000, damping=0.98)(made)
    settled = Tap(max_sweeps=2999, damping=0.98)(made)
    still = (posterior.marginals - settled.marginals).abs().amax(-1) < 1e-6
    assert int(still.sum()) >= 5
    truth = expected(oracles(made), "marginals", made.unary)
    wrong = (posterior.marginals - truth).abs().amax(-1) > 0.2
    assert int((still & wrong).sum()) >= 5
    assert not bool((posterior.converged & wrong).any())
    assert "couplings too strong for the expansion" in posterior.advice


@pytest.mark.parametrize("size", [0.5, 5.0, 30.0])
@methods(*USUAL)
def test_pairs_are_within_what_marginals_allow(method: InferenceMethod, size: float) -> None:
    """P(both) is a probability; TAP's is clipped between max(0, q_i + q_j - 1) and the lesser."""
    potentials = make_potentials(8, 6, unary=3.0, pairwise=size)
    posterior = method(potentials)
    pairs, ends = pairs_of(posterior), posterior.marginals[:, potentials.edges]
    assert bool(((pairs >= 0) & (pairs <= 1)).all())
    sound = posterior.converged if not isinstance(method, Tap) else torch.ones(8, dtype=torch.bool)
    slack = 0.0 if isinstance(method, Tap) else 10 * method.tolerance
    assert bool((pairs <= ends.amin(-1) + slack)[sound].all())
    assert bool((pairs >= ends.sum(-1) - 1 - slack - 1e-12)[sound].all())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [5, 2])
@methods(*ALL)
def test_marginals_are_the_gradient_of_log_partition(
    method: InferenceMethod, num_unknown: int, varies: bool
) -> None:
    """At convergence the derivatives of log Z or its bound are the beliefs of labels and pairs."""
    made = make_potentials(2, 5, pairwise=0.5, varies=varies)
    known = draw_known(made, num_unknown=num_unknown)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()
    posterior = method(Potentials(unary, made.edges, pairwise), known=known)
    assert bool(posterior.converged.all())
    by_unary, by_pairwise = torch.autograd.grad(posterior.log_partition.sum(), (unary, pairwise))
    close(by_unary, posterior.marginals.detach(), 1e-8)
    pairs = pairs_of(posterior).detach()
    close(by_pairwise, pairs if varies else pairs.sum(0), 1e-8)


@methods(*ALL)
def test_beliefs_are_differentiable(method: InferenceMethod) -> None:
    """Gradients of marginals and log Z through the sweeps agree with finite differences."""
    made = make_potentials(1, 3, pairwise=0.4)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()

    def beliefs(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = method(Potentials(unary, made.edges, pairwise))
        return posterior.marginals, posterior.log_partition

    assert torch.autograd.gradcheck(beliefs, (unary, pairwise))


def test_convex_dual_bounds_at_any_messages() -> None:
    """The dual is above log Z for fields drawn at random, and convex along lines between them."""
    potentials = make_potentials(10, 5, unary=2.0, pairwise=2.0)
    known = draw_known(potentials, num_unknown=4)
    log_z = log_partitions(potentials, known)
    generator = torch.Generator().manual_seed(0)
    least = CONVEX(potentials, known=known).log_partition
    for size in (0.0, 1.0, 10.0):
        one, other = (size * draw(generator, 10, 20) for _ in range(2))
        values = [dual_value(potentials, h, known=known) for h in (one, (one + other) / 2, other)]
        assert bool((torch.stack(values) >= least - 1e-9).all())
        assert bool((values[1] <= (values[0] + values[2]) / 2 + 1e-9).all())
    assert bool((least >= log_z).all())


def test_gradient_of_the_convex_dual_is_the_beliefs_of_its_factors() -> None:
    """For fixed messages: sigmoid(unary_i - sum_j h_ij) and b_ij(1, 1), converged or not."""
    made = make_potentials(3, 5, pairwise=1.0)
    fields = 2 * draw(torch.Generator().manual_seed(0), 3, 20)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()

    def dual(unary: Tensor, pairwise: Tensor) -> Tensor:
        return dual_value(Potentials(unary, made.edges, pairwise), fields)

    assert torch.autograd.gradcheck(dual, (unary, pairwise))
    by_unary, by_pairwise = torch.autograd.grad(dual(unary, pairwise).sum(), (unary, pairwise))
    rest, pairs = made.unary.detach().clone(), torch.zeros(3, 10, dtype=torch.float64)
    for edge, (i, j) in enumerate(made.edges.tolist()):
        h_i, h_j = fields[:, edge], fields[:, 10 + edge]
        rest[:, i] -= h_i
        rest[:, j] -= h_j
        terms = torch.stack([0 * h_i, h_i, h_j, made.pairwise[edge].detach() + h_i + h_j])
        pairs[:, edge] = terms.softmax(0)[3]
    close(by_unary, rest.sigmoid(), 1e-12)
    close(by_pairwise, pairs.sum(0), 1e-12)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_no_sweep_of_convex_propagation_raises_its_dual(size: float) -> None:
    """With damping 1/2, from any start, the dual falls at every update, on any graph."""
    generator = torch.Generator().manual_seed(0)
    for potentials in (make_potentials(6, 8, pairwise=size), make_sparse(pairwise=size)):
        known = draw_known(potentials, num_unknown=6)
        fields = 5 * draw(generator, potentials.num_images, 2 * len(potentials.edges))
        value = dual_value(potentials, fields, known=known)
        begin = value
        for _ in range(50):
            fields = update(potentials, fields, known=known, damping=0.5)
            before, value = value, dual_value(potentials, fields, known=known)
            assert bool((value <= before + 1e-9).all())
        assert bool((value < begin).all())


def test_a_learner_that_keeps_messages_reaches_the_bound() -> None:
    """One update at a time from the start, the dual comes to what the method returns."""
    potentials = make_potentials(4, 6, pairwise=1.0)
    fields = start_messages(potentials)
    for _ in range(400):
        fields = update(potentials, fields)
    close(dual_value(potentials, fields), CONVEX(potentials).log_partition, 1e-9)


def test_blended_learning_fits_the_beliefs_to_the_data() -> None:
    """Turns of one update and one gradient step end where pseudo-marginals are the frequencies."""
    targets = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    edges = full_edges(3)
    unary, pairwise = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def potentials() -> Potentials:
        return Potentials(unary.expand(5, 3), edges, pairwise)

    with torch.no_grad():
        fields = start_messages(potentials())
    for _ in range(400):
        with torch.no_grad():
            fields = update(potentials(), fields)
        loss = dual_value(potentials(), fields) - potentials().log_score(targets)
        by_unary, by_pairwise = torch.autograd.grad(loss.mean(), (unary, pairwise))
        with torch.no_grad():
            unary -= 2 * by_unary
            pairwise -= 2 * by_pairwise
    posterior = CONVEX(potentials())
    y = targets.double()
    close(posterior.marginals[0].detach(), y.mean(0), 1e-6)
    close(pairs_of(posterior)[0].detach(), y[:, edges].prod(-1).mean(0), 1e-6)


@methods(*ALL)
def test_relabelling_permutes(method: InferenceMethod) -> None:
    """Another order of labels and edges gives the same beliefs, moved."""
    potentials = make_sparse(pairwise=1.0)
    order = torch.tensor([3, 0, 4, 6, 1, 2, 5])
    place = order.argsort()
    edges = place[potentials.edges].sort(1).values.flip(0)
    moved = Potentials(potentials.unary[:, order], edges, potentials.pairwise.flip(0))
    before, after = method(potentials), method(moved)
    close(after.marginals, before.marginals[:, order], 1e-9)
    close(after.log_partition, before.log_partition, 1e-9)
    close(pairs_of(after).flip(1), pairs_of(before), 1e-9)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("varies", [False, True])
@methods(*USUAL)
def test_a_batch_equals_its_rows(method: InferenceMethod, varies: bool, clamp: bool) -> None:
    """An image stops by itself: alone it has the beliefs, flag and states it has among others."""
    batch = make_potentials(5, 6, unary=3.0, pairwise=2.5, varies=varies)
    known = draw_known(batch, num_unknown=4 if clamp else 6)
    whole, best = method(batch, known=known), method.map_states(batch, known=known)
    sweeps = []
    for row in range(5):
        one = slice(row, row + 1)
        pairwise = batch.pairwise[row] if varies else batch.pairwise
        alone = Potentials(batch.unary[one], batch.edges, pairwise)
        posterior = method(alone, known=known[one])
        close(posterior.marginals, whole.marginals[one], 1e-12)
        close(posterior.log_partition, whole.log_partition[one], 1e-10)
        close(pairs_of(posterior), pairs_of(whole)[one], 1e-12)
        assert torch.equal(posterior.converged, whole.converged[one])
        assert torch.equal(method.map_states(alone, known=known[one]), best[one])
        sweeps.append(posterior.sweeps)
    assert len(set(sweeps)) > 1
    assert max(sweeps) == whole.sweeps


@methods(*USUAL)
def test_same_call_same_bits(method: InferenceMethod) -> None:
    """Nothing is random."""
    potentials = make_potentials(pairwise=2.0)
    before, after = method(potentials), method(potentials)
    assert torch.equal(before.marginals, after.marginals)
    assert torch.equal(before.log_partition, after.log_partition)


@pytest.mark.parametrize("with_implications", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.5, 30.0])
@methods(*USUAL)
def test_finite_at_large_potentials(
    method: InferenceMethod, size: float, dtype: torch.dtype, with_implications: bool
) -> None:
    """Unaries of 50 and couplings of 30 give finite beliefs, and gradients, of the type given."""
    made = make_potentials(8, 7, pairwise=size, dtype=dtype)
    unary = (50 * made.unary.sign()).requires_grad_()
    pairwise = (size * made.pairwise.sign()).requires_grad_()
    rules = torch.tensor([[0, 1], [2, 1]]) if with_implications else made.implications
    potentials = Potentials(unary, made.edges, pairwise, rules)
    posterior = method(potentials)
    assert posterior.marginals.dtype == posterior.log_partition.dtype == dtype
    for beliefs in (posterior.marginals, pairs_of(posterior)):
        assert bool(((beliefs >= 0) & (beliefs <= 1)).all())
    assert bool(posterior.log_partition.isfinite().all())
    total = posterior.log_partition.sum() + posterior.marginals.sum()
    for gradient in torch.autograd.grad(total, (unary, pairwise)):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("size", [0.5, 2.0])
@methods(BETHE, TREES, CONVEX)
def test_float32_agrees_with_float64(method: InferenceMethod, size: float) -> None:
    """Single precision gives the same beliefs to five digits, bounds to six of theirs."""
    fine = make_potentials(4, 7, unary=3.0, pairwise=size)
    coarse = Potentials(fine.unary.float(), fine.edges, fine.pairwise.float())
    cut = type(method)(max_sweeps=100, tolerance=0.0)
    one, other = cut(fine), cut(coarse)
    close(other.marginals.double(), one.marginals, 1e-4)
    close(other.log_partition.double(), one.log_partition, 1e-5 * one.log_partition.abs())


@methods(*ALL)
def test_says_when_it_has_not_converged(method: Tap) -> None:
    """Cut short, it says for how many images and what to do; sweeps counts what was made."""
    posterior = type(method)(max_sweeps=2, tolerance=1e-10)(make_potentials(3, 5, pairwise=3.0))
    assert not bool(posterior.converged.any())
    assert posterior.sweeps == 2
    assert posterior.advice.startswith(f"{method.name}: 3 of 3 images had not converged after 2 sw")
    assert posterior.advice.endswith("raise max_sweeps or damping, or use exact or gibbs")


@methods(*ALL)
def test_converges_image_by_image(method: Tap) -> None:
    """An image that has converged stays as it is, and has less than the tolerance still to go."""
    potentials = make_potentials(20, 6, unary=3.0, pairwise=3.0)
    cut = next(
        posterior
        for sweeps in range(1, 200)
        if bool(
            (
                posterior := type(method)(max_sweeps=sweeps, tolerance=1e-6)(potentials)
            ).converged.any()
        )
    )
    whole = type(method)(max_sweeps=1000, tolerance=1e-6)(potentials)
    done = cut.converged
    assert done.unique().tolist() == [False, True]
    assert torch.equal(cut.marginals[done], whole.marginals[done])
    assert not torch.equal(cut.marginals[~done], whole.marginals[~done])
    limit = method(potentials).marginals
    close(whole.marginals[whole.converged], limit[whole.converged], 1e-4)


@pytest.mark.parametrize("damping", [-0.1, 1.0])
def test_damping_out_of_range_is_refused(damping: float) -> None:
    """Nothing would ever move at 1; the error names the range."""
    with pytest.raises(SettingsError, match="expected 0 <= damping < 1, got"):
        Bethe(damping=damping)


@pytest.mark.parametrize(
    ("size", "limits"),
    [
        (0.3, {"tap": 0.001, "bethe": 0.001, "tree-reweighted": 0.05, "convex-bp": 0.35}),
        (1.5, {"tap": 0.05, "bethe": 0.05, "tree-reweighted": 0.35, "convex-bp": 0.4}),
    ],
)
@methods(*ALL)
def test_marginals_near_the_truth(
    method: InferenceMethod, size: float, limits: dict[str, float]
) -> None:
    """Mean errors are what each is known for: TAP and Bethe small at weak couplings."""
    potentials = make_potentials(10, 10, unary=1.5, pairwise=size)
    truth = expected(oracles(potentials), "marginals", potentials.unary)
    assert float((method(potentials).marginals - truth).abs().mean()) < limits[method.name]
    estimates = method in (TAP, BETHE)
    kind = method(potentials).log_partition_kind
    assert kind is (LogPartitionKind.ESTIMATE if estimates else LogPartitionKind.UPPER)


@methods(*USUAL)
def test_implications_are_couplings(method: InferenceMethod) -> None:
    """Rules count as `as_couplings` says, known labels close under them, pairs are the given."""
    made = make_potentials(3, 5, pairwise=0.5)
    edges = made.edges[[0, 5, 9]]
    ruled = Potentials(made.unary, edges, made.pairwise[:3], torch.tensor([[0, 2], [3, 4]]))
    known = torch.full((3, 5), -1)
    known[0, 0], known[1, 4] = 1, 0
    posterior = method(ruled, known=known)
    coupled = method(ruled.as_couplings(), known=check_known(ruled, known))
    assert torch.equal(posterior.marginals, coupled.marginals)
    assert torch.equal(posterior.log_partition, coupled.log_partition)
    assert torch.equal(pairs_of(posterior), pairs_of(coupled)[:, :3])
    assert pairs_of(posterior).shape == (3, 3)
    assert posterior.marginals[0, 2] == 1
    assert posterior.marginals[1, 3] == 0


@methods(BETHE, TREES)
def test_implications_on_a_tree_are_exact(method: InferenceMethod) -> None:
    """A chain of rules is a tree: no child without its parent, and beliefs as enumerated."""
    made = make_potentials(3, 4, unary=2.0, pairwise=0.0)
    ruled = Potentials(made.unary, made.edges, made.pairwise, torch.tensor([[0, 1], [1, 2]]))
    truth, posterior = oracles(ruled.as_couplings()), method(ruled)
    close(posterior.marginals, expected(truth, "marginals", made.unary), 1e-9)
    close(posterior.log_partition, expected(truth, "log_partition", made.unary), 1e-9)
    assert bool((posterior.marginals[:, 0] <= posterior.marginals[:, 1]).all())


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@methods(*USUAL)
def test_map_states(method: InferenceMethod, size: float) -> None:
    """They keep what is known, never exceed the best score, and stop where no flip helps."""
    potentials = make_potentials(8, 6, unary=3.0, pairwise=size)
    known = draw_known(potentials, num_unknown=4)
    states = method.map_states(potentials, known=known)
    assert states.dtype == torch.int64
    assert bool(((states == known) | (known == -1)).all())
    score = potentials.log_score(states)
    best = expected(oracles(potentials, known), "best_score", score)
    assert bool((score <= best + 1e-9).all())
    for label in range(6):
        turned = states.clone()
        turned[:, label] = torch.where(known[:, label] == -1, 1 - turned[:, label], known[:, label])
        assert bool((potentials.log_score(turned) <= score + 1e-9).all())


def directed_counts(edges: list[list[int]], num_labels: int) -> list[float]:
    """Share of rooted spanning trees in which each arc runs from child to parent."""
    arcs = [tuple(pair) for pair in edges] + [(second, first) for first, second in edges]
    counts = dict.fromkeys(arcs, 0.0)
    trees = list(spanning_trees(edges, num_labels))
    for tree in trees:
        for root in range(num_labels):
            reached, waiting = {root}, [root]
            while waiting:
                parent = waiting.pop()
                for edge in tree:
                    if parent in edges[edge]:
                        child = sum(edges[edge]) - parent
                        if child not in reached:
                            reached.add(child)
                            waiting.append(child)
                            counts[child, parent] += 1 / (num_labels * len(trees))
    return [counts[arc] for arc in arcs]


@pytest.mark.parametrize(("num_labels", "num_edges"), [(2, 1), (4, 6), (5, 4), (5, 7), (6, 9)])
def test_tree_shares_count_all_spanning_trees(num_labels: int, num_edges: int) -> None:
    """Up to 512 labels they are the shares of all trees with all roots, as enumerated."""
    chain = {(i, i + 1) for i in range(num_labels - 1)}
    others = [tuple(e) for e in full_edges(num_labels).tolist() if tuple(e) not in chain]
    edges = [list(pair) for pair in [*chain, *others[::-1]][:num_edges]]
    child, root = tree_shares(torch.tensor(edges), num_labels)
    close(child, child.new_tensor(directed_counts(edges, num_labels)), 1e-12)
    close(root, torch.full_like(root, 1 / num_labels), 1e-15)


def test_tree_shares_of_a_full_graph_are_uniform() -> None:
    """Every edge of a full graph is in 2 / L of the trees, either way round alike."""
    child, _ = tree_shares(full_edges(24), 24)
    close(child, torch.full_like(child, 1 / 24), 1e-14)


@pytest.mark.parametrize("dense_labels", [512, 0])
def test_tree_shares_are_those_of_trees(monkeypatch: pytest.MonkeyPatch, dense_labels: int) -> None:
    """Computed or drawn: every edge is covered, each label has one parent or is the root.

    Two components and a label alone; an edge that is the only way is in every tree.
    """
    monkeypatch.setattr(tree_reweighted, "_DENSE_LABELS", dense_labels)
    tree_reweighted._tree_shares.cache_clear()
    full = full_edges(6)
    edges = torch.cat([full, torch.tensor([[5, 7]]), torch.tensor([[8, 9], [9, 10], [8, 10]])])
    child, root = tree_shares(edges, 11, seed=1)
    tree_reweighted._tree_shares.cache_clear()
    assert bool((child > 0).all())
    close(root, torch.tensor([1 / 7] * 6 + [1, 1 / 7] + [1 / 3] * 3).double(), 1e-7)
    close(root.index_add(0, edges.T.reshape(-1), child), torch.ones(11).double(), 1e-12)
    appearance = child.reshape(2, -1).sum(0)
    assert bool((appearance <= 1 + 1e-12).all())
    assert float(appearance[15]) == pytest.approx(1)
    assert float(appearance[:15].sum()) == pytest.approx(5)
    assert float(appearance[16:].sum()) == pytest.approx(2)
    assert float(child[15]) == pytest.approx(1 / 7)  # only the root 7 makes 5 its child


def test_trees_are_drawn_until_each_edge_is_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full graph of 40 labels needs at least 20 trees; edges end up in about as many each."""
    monkeypatch.setattr(tree_reweighted, "_DENSE_LABELS", 0)
    tree_reweighted._tree_shares.cache_clear()
    child, _ = tree_shares(full_edges(40), 40)
    tree_reweighted._tree_shares.cache_clear()
    appearance = child.reshape(2, -1).sum(0)
    assert float(appearance.sum()) == pytest.approx(39)
    assert bool((appearance > 0.5 * 2 / 40).all())
    assert bool((appearance < 2 * 2 / 40).all())


def test_drawn_trees_bound_log_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With trees drawn by seed the bound holds and forests stay exact; another seed differs."""
    monkeypatch.setattr(tree_reweighted, "_DENSE_LABELS", 0)
    tree_reweighted._tree_shares.cache_clear()
    potentials, forest = make_sparse(pairwise=2.0), make_forest(4, 8, pairwise=5.0)
    bounds = [TreeReweighted(seed=seed, **FINE)(potentials).log_partition for seed in (0, 0, 1)]
    exact_forest = TREES(forest).log_partition
    tree_reweighted._tree_shares.cache_clear()
    assert torch.equal(bounds[0], bounds[1])
    assert not torch.equal(bounds[0], bounds[2])
    assert bool((bounds[0] > log_partitions(potentials)).all())
    close(exact_forest, log_partitions(forest), 1e-9)


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return result


@methods(*USUAL)
def test_many_labels_take_memory_linear_in_edges(method: InferenceMethod) -> None:
    """Two thousand labels with five thousand edges: no tensor beyond two numbers an edge."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(0, 2000, (5100, 2), generator=generator).sort(1).values
    edges = torch.unique(ends[ends[:, 0] < ends[:, 1]], dim=0)
    potentials = Potentials(
        draw(generator, 2, 2000).float(), edges, 0.5 * draw(generator, len(edges)).float()
    )
    known = torch.where(torch.rand(2, 2000, generator=generator) < 0.05, 1, -1)
    with LargestTensor() as largest:
        posterior = method(potentials, known=known)
    assert largest.numbers <= 2 * 2 * len(edges)
    assert bool(posterior.converged.all())
    assert bool((posterior.marginals[known == 1] == 1).all())
    assert bool(posterior.log_partition.isfinite().all())
