"""Exact sums under random rules are those over the label sets that keep to them."""

import math
from dataclasses import replace

import pytest
import torch

from mlcrf.crf import Potentials, check_known, full_edges
from mlcrf.inference import Exact, PreparedExact, count_states
from mlcrf.inference.exact import partition
from mlcrf.inference.exact.conditioning import split_by_known
from mlcrf.rules import Limit, Rules
from tests.drawn_rules import allowed_scores, make
from tests.making import close, make_potentials


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("num_labels", [2, 5, 8, 12])
@pytest.mark.parametrize("seed", range(5))
def test_equals_enumeration(
    seed: int, num_labels: int, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log Z, marginals, pairs, the best set, count marginals and samples, with known labels.

    Whether labels of a limit stay together, or limits lie across quarters and halves.
    """
    if not joined:
        monkeypatch.setattr(partition, "_FEW", -1)
        partition._groups.cache_clear()
    potentials, known = make(seed, num_labels, varies=seed == 4)
    sets, scores = allowed_scores(potentials, known)
    p = scores.softmax(1)
    method = Exact(pairwise_marginals=True)
    methods = (
        [method] if potentials.varies_by_image else [method, PreparedExact(method, potentials)]
    )
    for one in methods:
        posterior = one(potentials, known=known)
        close(posterior.log_partition, scores.logsumexp(1), 1e-9)
        close(posterior.marginals, p @ sets, 1e-9)
    first, second = potentials.edges.T
    pairs = method(potentials, known=known).pairwise_marginals
    assert pairs is not None
    close(pairs, p @ (sets[:, first] * sets[:, second]), 1e-9)
    best = method.map_states(potentials, known=known)
    of_best = (best[:, None] == sets).all(-1)
    close(scores[of_best], scores.amax(1), 1e-9)
    counts = method.count_marginals(potentials, known=known)
    size = torch.nn.functional.one_hot(sets.sum(1).long(), num_labels + 1).double()
    close(counts, torch.einsum("ns,sl,sc->nlc", p, sets, size), 1e-9)
    drawn = method.sample(potentials, 300, torch.Generator().manual_seed(0), known=known)
    assert potentials.rules.obeyed_by(drawn.numpy()).all()
    assert ((known < 0) | (drawn == known)).all()
    close(drawn.double().mean(0), p @ sets, 0.12)


@pytest.mark.parametrize("seed", range(8))
def test_conditioning(seed: int) -> None:
    """The labels that are left have rules of their own, and soft rules that are settled cost."""
    potentials, known = make(seed, 7)
    _, scores = allowed_scores(potentials, known)
    for rest in split_by_known(potentials, check_known(potentials, known), lambda *_: True):
        found = Exact()(rest.potentials, known=rest.known).log_partition + rest.log_score
        close(found, scores.logsumexp(1)[rest.images], 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_gradient_is_marginals(seed: int) -> None:
    """Also where labels are known, as the likelihood of partly known images needs it."""
    potentials, known = make(seed, 6)
    unary, pairwise = potentials.unary.requires_grad_(), potentials.pairwise.requires_grad_()
    traced = replace(potentials, unary=unary, pairwise=pairwise)
    Exact()(traced, known=known).log_partition.sum().backward()
    sets, scores = allowed_scores(
        replace(traced, unary=unary.detach(), pairwise=pairwise.detach()), known
    )
    p = scores.softmax(1)
    first, second = potentials.edges.T
    assert unary.grad is not None and pairwise.grad is not None
    close(unary.grad, p @ sets, 1e-9)
    close(pairwise.grad, (p @ (sets[:, first] * sets[:, second])).sum(0), 1e-9)


def test_forty_labels_in_ten_exclusive_groups() -> None:
    """5^10 label sets: exact, and those of a group are never together."""
    groups = tuple(Limit(tuple(range(at, at + 4)), 0, 1) for at in range(0, 40, 4))
    rules = Rules((), groups)
    assert count_states(40, rules) == pytest.approx(10 * math.log2(5))
    made = make_potentials(2, 40, unary=1.0, pairwise=0.0)
    exact = Exact(max_labels=24)
    apart = replace(made, rules=rules)
    odds = apart.unary.exp().view(2, 10, 4)
    posterior = exact(apart)
    close(posterior.log_partition, (1 + odds.sum(2)).log().sum(1), 1e-9)
    close(posterior.marginals, (odds / (1 + odds.sum(2, keepdim=True))).view(2, 40), 1e-9)
    edges = full_edges(40)
    draw = torch.randn(len(edges), generator=torch.Generator().manual_seed(1))
    coupled = Potentials(made.unary, edges, draw.to(made.unary), rules)
    best = exact.map_states(coupled)
    assert best.view(2, 10, 4).sum(2).max() <= 1
    assert (coupled.log_score(best) <= exact(coupled).log_partition).all()


def test_a_limit_on_all_labels() -> None:
    """At least one of twenty lies across the halves; at most two of forty are listed."""
    edges = full_edges(20)
    unary = torch.full((1, 20), -3.0, dtype=torch.float64)
    none = torch.zeros(len(edges), dtype=torch.float64)
    some = Potentials(unary, edges, none, Rules((), (Limit(tuple(range(20)), 1, 20),)))
    everything = Exact()(replace(some, rules=Rules())).log_partition.exp()
    close(Exact()(some).log_partition, (everything - 1).log(), 1e-9)
    few = Rules((), (Limit(tuple(range(40)), 0, 2),))
    assert 2 ** count_states(40, few) == pytest.approx(1 + 40 + 780)
