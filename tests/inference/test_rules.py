"""Methods beside enumeration under random rules."""

import math
from dataclasses import replace

import pytest
import torch

from mlcrf.choices import InferenceName
from mlcrf.crf import check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference import Exact, Gibbs, JunctionTree, MeanField, make_inference
from mlcrf.inference.annealed_importance import AnnealedImportanceSampling
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.explanation import explain_label
from mlcrf.inference.gibbs import blocks_of_labels
from mlcrf.inference.gibbs.blocks_of_labels import Blocks
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.rules import Limit, Rules
from tests.drawn_rules import allowed_scores, make
from tests.making import close, make_potentials


@pytest.mark.parametrize("seed", range(8))
def test_junction_tree_is_exact(seed: int) -> None:
    """Log Z, marginals, pairs, the best set, samples, and the gradient through marginals."""
    potentials, known = make(seed, 7, varies=seed % 2 == 1)
    sets, scores = allowed_scores(potentials, known)
    p = scores.softmax(1)
    tree = JunctionTree(pairwise_marginals=True)
    posterior = tree(potentials, known=known)
    close(posterior.log_partition, scores.logsumexp(1), 1e-8)
    close(posterior.marginals, p @ sets, 1e-8)
    first, second = potentials.edges.T
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, p @ (sets[:, first] * sets[:, second]), 1e-8)
    best = tree.map_states(potentials, known=known)
    close(scores[(best[:, None] == sets).all(-1)], scores.amax(1), 1e-8)
    drawn = tree.sample(potentials, 200, torch.Generator().manual_seed(0), known=known)
    assert potentials.rules.obeyed_by(drawn.numpy()).all()
    grads = []
    for method in (tree, Exact()):
        unary = potentials.unary.clone().requires_grad_()
        method(replace(potentials, unary=unary), known=known).marginals.sin().sum().backward()
        assert unary.grad is not None
        grads.append(unary.grad)
    close(grads[0], grads[1], 1e-8)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_sweep_leaves_the_distribution_as_it_is(
    seed: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(end) is the sum over starts of P(start) times the chance of a draw from start to end.

    By groups of labels, and label by label and pair by pair where a group is too large to list.
    """
    if large:
        monkeypatch.setattr(blocks_of_labels, "_MOST", 1)
    potentials, known = make(seed, 5)
    known = check_known(potentials, known)
    sets, scores = allowed_scores(potentials, known)
    powers = 2.0 ** torch.arange(4, -1, -1).double()
    for image in range(2):
        blocks = Blocks(potentials.rows(slice(image, image + 1)), known[image : image + 1])
        p = scores[image].softmax(0)
        allowed = p > 0
        for block in blocks.blocks:
            y = sets[allowed][:, None].clone()
            chance = blocks._log_weights(block, y).softmax(-1)[:, 0]
            after = torch.zeros_like(p)
            for at, state in enumerate(block.states):
                ends = y[:, 0].clone()
                ends[:, block.labels] = state
                after.index_add_(0, (ends @ powers).long(), p[allowed] * chance[:, at])
            close(after, p, 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_gibbs(seed: int) -> None:
    """No sample breaks a rule; marginals, log Z and pairs are near the exact ones."""
    potentials, known = make(seed, 6)
    gibbs = Gibbs(chains=40, burn_in=30, sweeps=150, pairwise_marginals=True)
    posterior = gibbs(potentials, known=known)
    exact = Exact(pairwise_marginals=True)(potentials, known=known)
    assert posterior.samples is not None and posterior.pairwise_marginals is not None
    assert exact.pairwise_marginals is not None
    assert potentials.rules.obeyed_by(posterior.samples.numpy()).all()
    close(posterior.marginals, exact.marginals, 0.03)
    close(posterior.log_partition, exact.log_partition, 0.1)
    close(posterior.pairwise_marginals, exact.pairwise_marginals, 0.04)
    assert potentials.rules.obeyed_by(gibbs.map_states(potentials, known=known).numpy()).all()


def test_chains_cross_exclusive_groups() -> None:
    """From one label of a group to another in one draw, however improbable none of them is."""
    rules = Rules((), (Limit((0, 1, 2, 3), 1, 1),))
    potentials = replace(make_potentials(1, 5, unary=8.0, pairwise=0.5), rules=rules)
    found = run_chains(potentials, torch.zeros(200, 1, 5), sweeps=1, thin=1).samples[0, :, 0]
    assert (found[:, :4].sum(1) == 1).all()
    exact = Exact()(potentials).marginals
    close(Gibbs(chains=50, sweeps=60)(potentials).marginals, exact, 0.03)


@pytest.mark.parametrize("seed", range(4))
def test_mean_field_bound(seed: int) -> None:
    """Below log Z, with limits at their expected cost."""
    potentials, _ = make(seed, 6)
    soft = Rules((), tuple(replace(limit, weight=1.5) for limit in potentials.rules.limits))
    potentials = replace(potentials, rules=soft)
    posterior = MeanField()(potentials)
    log_z = Exact()(potentials).log_partition
    assert (posterior.log_partition <= log_z + 1e-9).all()
    assert (posterior.log_partition >= log_z - 3).all()


def test_what_annealing_cannot_keep_to() -> None:
    """It refuses limits that are no couplings, with a remedy, and takes the others."""
    some = make_potentials(1, 4)
    annealed = AnnealedImportanceSampling()
    exclusive = replace(some, rules=Rules((), (Limit((0, 1, 2), 0, 1),)))
    log_z = Exact()(exclusive).log_partition
    close(annealed(exclusive).log_partition, log_z, 0.2)
    with pytest.raises(PotentialsError, match="cannot keep to the rule `at least 1 of: 0, 1, 2`"):
        annealed(replace(some, rules=Rules((), (Limit((0, 1, 2), 1, 3),))))


def test_automatic_choice_by_image() -> None:
    """Under limits, what is left of an image decides; one of few states is exact."""
    rules = Rules((), tuple(Limit(tuple(range(at, at + 4)), 0, 1) for at in range(0, 16, 4)))
    potentials = replace(make_potentials(2, 16), rules=rules)
    method = make_inference(
        InferenceName.AUTO, num_labels=16, edges=potentials.edges, max_exact_labels=10, rules=rules
    )
    assert isinstance(method, Exact)
    known = torch.full((2, 16), -1)
    known[0, :8] = 0
    posterior = ExactOrGibbs(6, Gibbs(chains=30, sweeps=100))(potentials, known=known)
    exact = Exact()(potentials, known=known)
    close(posterior.marginals[0], exact.marginals[0], 1e-9)
    close(posterior.marginals[1], exact.marginals[1], 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_explanations_add_up(seed: int) -> None:
    """With limits as a part of their own, or a label that known labels settle by one."""
    potentials, known = make(seed, 6)
    for image in range(3):
        one, given = potentials.rows(slice(image, image + 1)), known[image : image + 1]
        for label in range(6):
            found = explain_label(Exact(), one, label, known=given)
            others = given.clone()
            others[0, label] = -1
            p = float(Exact()(one, known=others).marginals[0, label])
            if 0 < p < 1:
                assert found.log_odds == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
                assert abs(found.unexplained) < 1e-4
            else:
                assert found.log_odds == (torch.inf if p == 1 else -torch.inf)


def test_what_a_limit_settles() -> None:
    """The labels that are present of an exclusive group, and those absent of one that needs one."""
    rules = Rules((), (Limit((0, 1, 2), 1, 1),))
    potentials = replace(make_potentials(1, 4), rules=rules)
    present = explain_label(Exact(), potentials, 0, known=torch.tensor([[-1, -1, 1, -1]]))
    assert (present.log_odds, present.settled_by) == (-torch.inf, (2,))
    absent = explain_label(Exact(), potentials, 0, known=torch.tensor([[-1, 0, 0, -1]]))
    assert (absent.log_odds, absent.settled_by) == (torch.inf, (1, 2))
