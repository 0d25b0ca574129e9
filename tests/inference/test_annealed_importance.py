"""Annealed importance sampling against the oracle: its kernel, its weights, its estimates."""

import dataclasses
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known, full_edges
from mlcrf.inference import Exact
from mlcrf.inference import annealed_importance as annealing
from mlcrf.inference.annealed_importance import Annealed, AnnealedImportanceSampling
from mlcrf.inference.gibbs.label_groups import (
    GroupedCouplings,
    certain_bias,
    draw,
    sweep_groups,
)
from mlcrf.rules import Rules
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import Oracle, oracles

AIS = AnnealedImportanceSampling(chains=64, temperatures=50)
CHAIN = Rules(((1, 0), (2, 1)))  # 2 => 1 => 0
BELOW_ONE = 1 - 2**-53


def with_rules(potentials: Potentials, rules: Rules = CHAIN) -> Potentials:
    return dataclasses.replace(potentials, rules=rules)


def on_the_way(potentials: Potentials, beta: float) -> Oracle:
    """One image's model at beta: its score is that of both ends, mixed."""
    end = oracles(potentials.as_couplings())[0]
    start = potentials.unary[0].tolist()
    mixed = [(1 - beta) * u + beta * v for u, v in zip(start, end.unary, strict=True)]
    return Oracle(mixed, {pair: beta * value for pair, value in end.couplings.items()})


def repeated(potentials: Potentials, times: int) -> Potentials:
    """The first image, many times over: replicates that differ in nothing but their draws."""
    return potentials.rows(torch.zeros(times, dtype=torch.int64))


def sweep_matrix(potentials: Potentials, beta: float, known: Tensor) -> tuple[Tensor, float]:
    """Transition matrix of one shipped sweep of one image, states in the order of `product`.

    Uniforms near 0 and 1 steer a sweep from any state to any other; the probabilities on its way
    make up the entry. Just below and above its probability, the uniform of a label decides it.

    Returns:
        The matrix, and by how much at most the reported rise of the couplings is wrong.
    """
    num_labels = potentials.num_labels
    states = list(product((0, 1), repeat=num_labels))
    pairs = list(product(states, repeat=2))
    start = torch.tensor([one for one, _ in pairs], dtype=torch.float64).T[..., None].contiguous()
    end = torch.tensor([other for _, other in pairs], dtype=torch.float64).T[..., None]
    couplings, bias = GroupedCouplings(potentials), certain_bias(potentials.unary, known)
    steer = torch.where(end == 1, torch.zeros_like(end), BELOW_ONE)
    drawn, y = torch.empty_like(start), start.clone()
    risen = sweep_groups(couplings, y, bias, beta, steer, probabilities=drawn)
    for label in range(num_labels):
        for side in (-1e-9, 1e-9):
            uniforms, turned = steer.clone(), start.clone()
            uniforms[label] = drawn[label] + side
            sweep_groups(couplings, turned, bias, beta, uniforms)
            assert bool((turned[label] == (side < 0))[known[0, label] == -1].all())
    coupled = potentials.log_score(y.permute(1, 2, 0)) - (y.permute(1, 2, 0) * bias.T).sum(-1)
    before = potentials.log_score(start.permute(1, 2, 0))
    before = before - (start.permute(1, 2, 0) * bias.T).sum(-1)
    error = float((risen - (coupled - before)).abs().nan_to_num(0.0).max())
    probability = torch.where(end == 1, drawn, 1 - drawn).prod(0)
    return probability.reshape(len(states), len(states)), error


@pytest.mark.parametrize("implied", [False, True])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.03, 0.6, 1.0])
def test_one_sweep_leaves_its_distribution(beta: float, varies: bool, implied: bool) -> None:
    """With P the matrix of a sweep at beta and pi the model there, pi P = pi."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0, varies=varies)
    if implied:
        potentials = with_rules(potentials)
    matrix, error = sweep_matrix(potentials, beta, torch.full((1, 3), -1))
    truth = on_the_way(potentials, beta)
    pi = torch.tensor(list(truth.probabilities.values()), dtype=torch.float64)
    close(matrix.sum(1), torch.ones(8, dtype=torch.float64), 1e-12)
    close(pi @ matrix, pi, 1e-12)
    assert error < 1e-10


@pytest.mark.parametrize("value", [0, 1])
def test_one_sweep_leaves_the_clamped_distribution(value: int) -> None:
    """With a label known the same holds among the states that agree; no other is reached."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0)
    known = torch.tensor([[-1, value, -1]])
    matrix, _ = sweep_matrix(potentials, 1.0, known)
    probabilities = oracles(potentials, known)[0].probabilities
    agree = torch.tensor([state in probabilities for state in product((0, 1), repeat=3)])
    pi = torch.tensor(list(probabilities.values()), dtype=torch.float64)
    close(pi @ matrix[agree][:, agree], pi, 1e-12)
    assert float(matrix[agree][:, ~agree].max()) == 0


def test_groups_hold_no_edge_and_all_labels() -> None:
    """Labels that are redrawn at once are no neighbours; each label is in one group."""
    generator = torch.Generator().manual_seed(0)
    edges = full_edges(30)
    edges = edges[torch.rand(len(edges), generator=generator) < 0.15]
    potentials = Potentials(torch.zeros(1, 30), edges, torch.zeros(len(edges)))
    groups = GroupedCouplings(potentials).groups
    group_of = torch.empty(30, dtype=torch.int64)
    for number, labels in enumerate(groups):
        group_of[labels] = number
    assert torch.cat(groups).sort().values.tolist() == list(range(30))
    assert bool((group_of[edges[:, 0]] != group_of[edges[:, 1]]).all())
    assert len(groups) < 10
    assert len(GroupedCouplings(make_potentials(1, 6)).groups) == 6


@pytest.mark.parametrize("varies", [False, True])
def test_groups_bring_what_conditional_logits_hold(varies: bool) -> None:
    """Couplings of a group are those of the CRF, rules included, for each image."""
    generator = torch.Generator().manual_seed(0)
    edges = full_edges(9)
    edges = edges[torch.rand(len(edges), generator=generator) < 0.4]
    shape = (4, len(edges)) if varies else (len(edges),)
    pairwise = torch.randn(shape, generator=generator, dtype=torch.float64)
    unary = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    potentials = Potentials(unary, edges, pairwise, CHAIN)
    states = (torch.rand(5, 4, 9, generator=generator) < 0.5).double()
    wanted = (potentials.conditional_logits(states) - unary).permute(2, 0, 1)
    couplings = GroupedCouplings(potentials)
    for number, labels in enumerate(couplings.groups):
        close(couplings.of(number, states.permute(2, 0, 1)), wanted[labels], 1e-10)


def test_draws_are_never_zero() -> None:
    """A uniform of 0 would make a label present that is impossible; float32 has them."""
    plain = torch.empty(2**21).uniform_(generator=torch.Generator().manual_seed(3))
    assert bool((plain == 0).any())
    drawn = draw(torch.empty(2**21), torch.Generator().manual_seed(3))
    assert float(drawn.min()) > 0
    assert torch.equal(drawn[plain > 0], plain[plain > 0])


@pytest.mark.parametrize("num_unknown", [5, 2, 0])
def test_no_weight_varies_without_couplings(num_unknown: int) -> None:
    """At zero coupling every chain has the same weight, so that log Z is exact."""
    made = make_potentials(4, 5, unary=4.0)
    potentials = Potentials(made.unary, made.edges, 0 * made.pairwise)
    annealed = AIS.anneal(potentials, known=draw_known(potentials, num_unknown=num_unknown))
    close(annealed.effective_chains, torch.full((4,), 64.0, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize(
    ("implied", "varies", "sweeps"), [(False, False, 1), (False, True, 2), (True, False, 1)]
)
def test_weights_are_unbiased(implied: bool, varies: bool, sweeps: int) -> None:
    """E[w] = Z and E[w marginals] = Z P(y_i = 1), however few chains, temperatures and sweeps."""
    potentials = make_potentials(1, 5, unary=1.5, pairwise=1.5, varies=varies, seed=3)
    if implied:
        potentials = with_rules(potentials)
    truth = oracles(potentials.as_couplings())[0]
    method = AnnealedImportanceSampling(chains=2, temperatures=4, sweeps=sweeps, seed=5)
    annealed = method.anneal(repeated(potentials, 10_000))
    ratio = (annealed.log_partition - truth.log_partition).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert float(ratio.std()) > 0.1  # so that the test could fail
    assert error < 0.03
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * error)
    weighted = ratio[:, None] * annealed.marginals
    errors = weighted.std(0) / math.sqrt(len(ratio))
    close(weighted.mean(0), weighted.new_tensor(truth.marginals), 4 * errors + 1e-12)


@pytest.mark.parametrize("implied", [False, True])
def test_log_partition_is_as_exact_as_its_weights_say(implied: bool) -> None:
    """Over replicates, the error of log Z has the size that the effective number of chains says."""
    potentials = make_potentials(1, 8, unary=1.5, pairwise=1.5, seed=1)
    if implied:
        potentials = with_rules(potentials)
    truth = oracles(potentials.as_couplings())[0]
    annealed = AIS.anneal(repeated(potentials, 500))
    standard_error = annealed.standard_error
    scaled = (annealed.log_partition - truth.log_partition) / standard_error
    assert float(scaled.square().mean().sqrt()) == pytest.approx(1, abs=0.15)
    assert float(scaled.abs().max()) < 5
    assert float(standard_error.mean()) < 0.15


def test_implications_hold() -> None:
    """Samples break none, beliefs are those of the states that break none, with good weights."""
    generator = torch.Generator().manual_seed(0)
    unary = 2 * torch.randn(4, 8, generator=generator, dtype=torch.float64)
    pairwise = torch.randn(28, generator=generator, dtype=torch.float64) / 2
    rules = Rules(((1, 0), (2, 1), (3, 0), (5, 4), (7, 6)))
    potentials = Potentials(unary, full_edges(8), pairwise, rules)
    method = dataclasses.replace(AIS, chains=200, temperatures=200)
    posterior = method(potentials)
    truth = oracles(potentials.as_couplings())
    close(posterior.log_partition, expected(truth, "log_partition", unary), 0.1)
    close(posterior.marginals, expected(truth, "marginals", unary), 0.05)
    assert posterior.samples is not None
    child, parent = rules.array.T
    assert bool((posterior.samples[..., child] <= posterior.samples[..., parent]).all())
    assert bool((method.anneal(potentials).effective_chains > 100).all())
    known = torch.full((4, 8), -1)
    known[:, 2] = 1
    assert bool((method(potentials, known=known).marginals[:, :3] == 1).all())


def test_chunks_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images one at a time have the beliefs of their own."""
    potentials = make_potentials(3, 5, unary=2.0, varies=True)
    known = draw_known(potentials, num_unknown=3)
    log_z = expected(oracles(potentials, known), "log_partition", potentials.unary)
    monkeypatch.setattr(annealing, "_CHUNK_ENTRIES", 1)
    close(AIS(potentials, known=known).log_partition, log_z, 0.1)


def test_too_few_temperatures_are_reported() -> None:
    """If few chains carry the weight, the advice says for how many images and what to do."""
    potentials = make_potentials(2, 12, pairwise=5.0)
    weak = Potentials(potentials.unary, potentials.edges, potentials.pairwise * 0)
    both = Potentials(
        torch.cat([potentials.unary, weak.unary]),
        potentials.edges,
        torch.stack([potentials.pairwise] * 2 + [weak.pairwise] * 2),
    )
    posterior = dataclasses.replace(AIS, temperatures=1)(both)
    assert posterior.converged.tolist() == [False, False, True, True]
    assert "2 of 4 images have fewer than 25% of 64 chains effective" in posterior.advice


@pytest.mark.parametrize("strength", [1.5, 3.0, 10.0])
def test_both_modes_of_labels_that_attract_each_other_are_weighed(strength: float) -> None:
    """Fourteen labels that are all present or all absent: log Z and marginals are right."""
    edges = full_edges(14)
    pairwise = torch.full((len(edges),), 4 * strength / 13, dtype=torch.float64)
    fields = 0.6 * torch.randn(20, 14, generator=torch.Generator().manual_seed(0)).double()
    potentials = Potentials(fields - 2 * strength, edges, pairwise)
    posterior, truth = AnnealedImportanceSampling()(potentials), Exact()(potentials)
    assert bool(posterior.converged.all())
    assert posterior.log_partition_error is not None
    off = (posterior.log_partition - truth.log_partition).abs()
    assert bool((off < 4 * posterior.log_partition_error).all())
    close(posterior.marginals, truth.marginals, 0.3)


@pytest.mark.parametrize("coupling", [-60.0, -1e9])
def test_labels_that_exclude_each_other_are_met_on_the_way(coupling: float) -> None:
    """At most one of each four of sixteen labels: log Z and marginals are right."""
    potentials = make_potentials(5, 16)
    first, second = potentials.edges.T
    pairwise = potentials.pairwise.masked_fill(first // 4 == second // 4, coupling)
    potentials = dataclasses.replace(potentials, pairwise=pairwise)
    posterior, truth = AnnealedImportanceSampling()(potentials), Exact()(potentials)
    assert bool(posterior.converged.all())
    assert posterior.log_partition_error is not None
    off = (posterior.log_partition - truth.log_partition).abs()
    assert bool((off < 4 * posterior.log_partition_error).all())
    close(posterior.marginals, truth.marginals, 0.3)


def test_a_label_set_above_log_z_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal weights are no sign of convergence where a label set has a score above log Z."""
    potentials = make_potentials(3, 5)
    run = AnnealedImportanceSampling._run

    def too_low(method: AnnealedImportanceSampling, *given: Any) -> Annealed:
        annealed = run(method, *given)
        lost = torch.tensor([0.0, 20.0, 0.0])  # as if a mode had been missed
        return dataclasses.replace(annealed, log_weights=annealed.log_weights - lost)

    monkeypatch.setattr(AnnealedImportanceSampling, "_run", too_low)
    posterior = AIS(potentials)
    assert posterior.converged.tolist() == [True, False, True]
    assert "1 of 3 images have a log Z below the score of a label set" in posterior.advice
    assert posterior.log_partition_error is not None
    assert posterior.log_partition_error.isinf().tolist() == [False, True, False]


@pytest.mark.parametrize("varies", [False, True])
def test_scores_of_the_last_states(varies: bool) -> None:
    """Added up sweep by sweep, they are those of the CRF, known labels and rules included."""
    potentials = with_rules(make_potentials(4, 6, pairwise=2.0, varies=varies))
    known = torch.full((4, 6), -1)
    known[1, 3], known[2, 2] = 1, 1
    annealed = AIS.anneal(potentials, known=check_known(potentials, known))
    close(annealed.log_scores, potentials.log_score(annealed.states.long()), 1e-9)


def test_effective_chains_by_their_formula() -> None:
    """Weights 1, 1, 2: effective 16 / 6, mean 4 / 3."""
    log_weights = torch.tensor([[0.0], [0.0], [math.log(2)]], dtype=torch.float64) + 700
    annealed = Annealed(torch.zeros(3, 1, 1), log_weights, log_weights, torch.zeros(1, 1))
    assert float(annealed.effective_chains) == pytest.approx(16 / 6)
    assert float(annealed.log_partition) == pytest.approx(700 + math.log(4 / 3))


def test_resampling_follows_the_weights() -> None:
    """Each of S chains is drawn S w / sum w times, rounded down or up; images on their own."""
    weights = torch.tensor([[0.1, 4.0], [2.5, 0.0], [1.4, 0.0], [0.0, 0.0]], dtype=torch.float64)
    states = torch.eye(4, dtype=torch.uint8)[:, None].expand(4, 2, 4)  # chain s has label s
    annealed = Annealed(states, weights.log(), weights, torch.zeros(2, 4))
    total = torch.zeros(2, 4)
    for seed in range(200):
        counts = annealed.resampled(torch.Generator().manual_seed(seed)).sum(0)
        assert bool((counts[0] >= torch.tensor([0, 2, 1, 0])).all())
        assert bool((counts[0] <= torch.tensor([1, 3, 2, 0])).all())
        assert counts[1].tolist() == [4, 0, 0, 0]
        total += counts
    close(total / 200, weights.T.float(), 0.1)
