"""Annealed importance sampling against the oracle: its kernel, its weights, its estimates."""

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import LogPartitionKind, annealing
from mlcrf.inference.annealing import (
    Annealed,
    AnnealedImportanceSampling,
    GroupedCouplings,
    certain_bias,
    draw,
    sweep,
)
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import Oracle, oracles

AIS = AnnealedImportanceSampling(chains=64, temperatures=50)
CHAIN = torch.tensor([[1, 0], [2, 1]])  # 2 => 1 => 0
BELOW_ONE = 1 - 2**-53


def with_implications(potentials: Potentials, implications: Tensor = CHAIN) -> Potentials:
    return dataclasses.replace(potentials, implications=implications)


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

    Uniforms near 0 and 1 steer a sweep from any state to any other; the chances on its way make
    up the entry. Just below and above its chance, the uniform of a label decides it.

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
    chances, y = torch.empty_like(start), start.clone()
    risen = sweep(couplings, y, bias, beta, steer, chances=chances)
    for label in range(num_labels):
        for side in (-1e-9, 1e-9):
            uniforms, turned = steer.clone(), start.clone()
            uniforms[label] = chances[label] + side
            sweep(couplings, turned, bias, beta, uniforms)
            assert bool((turned[label] == (side < 0))[known[0, label] == -1].all())
    coupled = potentials.log_score(y.permute(1, 2, 0)) - (y.permute(1, 2, 0) * bias.T).sum(-1)
    before = potentials.log_score(start.permute(1, 2, 0))
    before = before - (start.permute(1, 2, 0) * bias.T).sum(-1)
    error = float((risen - (coupled - before)).abs().nan_to_num(0.0).max())
    probability = torch.where(end == 1, chances, 1 - chances).prod(0)
    return probability.reshape(len(states), len(states)), error


@pytest.mark.parametrize("implied", [False, True])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.03, 0.6, 1.0])
def test_one_sweep_leaves_its_distribution(beta: float, varies: bool, implied: bool) -> None:
    """With P the matrix of a sweep at beta and pi the model there, pi P = pi."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0, varies=varies)
    if implied:
        potentials = with_implications(potentials)
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
    """Couplings of a group are those of the CRF, implications included, for each image."""
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
def test_tight_without_couplings(num_unknown: int) -> None:
    """At zero coupling no weight varies: log Z and marginals are exact."""
    made = make_potentials(4, 5, unary=4.0, pairwise=0.0)
    potentials = Potentials(made.unary, full_edges(5), torch.zeros(10, dtype=torch.float64))
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), AIS(potentials, known=known)
    assert posterior.log_partition_kind is LogPartitionKind.ESTIMATE
    close(posterior.log_partition, expected(truth, "log_partition", made.unary), 1e-12)
    close(posterior.marginals, expected(truth, "marginals", made.unary), 1e-12)
    effective = AIS.anneal(potentials, known=known).effective_chains
    close(effective, torch.full((4,), 64.0, dtype=torch.float64), 1e-9)
    assert torch.equal(AIS.map_states(made), (made.unary > 0).long())


@pytest.mark.parametrize(
    ("implied", "varies", "sweeps"), [(False, False, 1), (False, True, 2), (True, False, 1)]
)
def test_weights_are_unbiased(implied: bool, varies: bool, sweeps: int) -> None:
    """E[w] = Z and E[w marginals] = Z P(y_i = 1), however few chains, temperatures and sweeps."""
    potentials = make_potentials(1, 5, unary=1.5, pairwise=1.5, varies=varies, seed=3)
    if implied:
        potentials = with_implications(potentials)
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
def test_log_partition_is_within_its_standard_error(implied: bool) -> None:
    """Over replicates, the error of log Z has the size that the weights say."""
    potentials = make_potentials(1, 8, unary=1.5, pairwise=1.5, seed=1)
    if implied:
        potentials = with_implications(potentials)
    truth = oracles(potentials.as_couplings())[0]
    annealed = AIS.anneal(repeated(potentials, 500))
    scaled = (annealed.log_partition - truth.log_partition) / annealed.standard_error
    assert float(scaled.square().mean().sqrt()) == pytest.approx(1, abs=0.15)
    assert float(scaled.abs().max()) < 5
    assert float(annealed.standard_error.mean()) < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [6, 3, 1, 0])
def test_equals_brute_force(num_unknown: int, varies: bool, dtype: torch.dtype) -> None:
    """Log Z and marginals are those of the states that agree with what is known."""
    potentials = make_potentials(4, 6, unary=2.0, pairwise=1.0, varies=varies, dtype=dtype)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), AIS(potentials, known=known)
    assert bool(posterior.converged.all())
    assert posterior.advice == ""
    assert posterior.sweeps == 50
    exact = 1e-5 if dtype == torch.float32 else 1e-10
    log_z = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_z, 0.12 if num_unknown > 1 else exact)
    marginals = expected(truth, "marginals", log_z)
    close(posterior.marginals, marginals, 0.12 if num_unknown > 1 else exact)
    assert posterior.samples is not None
    assert bool(((posterior.samples == known) | (known == -1)).all())


def test_implications_hold() -> None:
    """Samples break none, beliefs are those of the states that break none, with good weights."""
    generator = torch.Generator().manual_seed(0)
    unary = 2 * torch.randn(4, 8, generator=generator, dtype=torch.float64)
    pairwise = torch.randn(28, generator=generator, dtype=torch.float64) / 2
    implications = torch.tensor([[1, 0], [2, 1], [3, 0], [5, 4], [7, 6]])
    potentials = Potentials(unary, full_edges(8), pairwise, implications)
    method = dataclasses.replace(AIS, chains=200, temperatures=200)
    posterior = method(potentials)
    truth = oracles(potentials.as_couplings())
    close(posterior.log_partition, expected(truth, "log_partition", unary), 0.1)
    close(posterior.marginals, expected(truth, "marginals", unary), 0.05)
    assert posterior.samples is not None
    child, parent = implications.T
    assert bool((posterior.samples[..., child] <= posterior.samples[..., parent]).all())
    assert bool((method.anneal(potentials).effective_chains > 100).all())
    known = torch.full((4, 8), -1)
    known[:, 2] = 1
    assert bool((method(potentials, known=known).marginals[:, :3] == 1).all())


def test_sparse_copies_of_small_models() -> None:
    """200 labels in 40 components of 5: log Z is the sum of the oracle's, labels shuffled."""
    small = make_potentials(40, 5, unary=1.5, pairwise=1.0, varies=True)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    unary = torch.empty(1, 200, dtype=torch.float64)
    unary[:, order] = small.unary.reshape(1, -1)
    offsets = 5 * torch.arange(40)[:, None, None]
    edges = order[(small.edges + offsets).reshape(-1, 2)].sort(1).values
    potentials = Potentials(unary, edges, small.pairwise.reshape(-1))
    annealed = dataclasses.replace(AIS, temperatures=200).anneal(potentials)
    truth = oracles(small)
    log_z = sum(one.log_partition for one in truth)
    error = float(annealed.standard_error)
    assert error < 0.1
    assert float(annealed.log_partition) == pytest.approx(log_z, abs=4 * error)
    marginals = torch.tensor([one.marginals for one in truth], dtype=torch.float64).reshape(-1)
    difference = annealed.marginals[0, order] - marginals
    assert float(difference.square().mean().sqrt()) < 0.04


@pytest.mark.parametrize("size", [1.0, 3.0, 30.0])
def test_map_states_are_local_maxima(size: float) -> None:
    """They never score more than the oracle's best, and no free label's change betters them."""
    potentials = make_potentials(8, 6, unary=3.0, pairwise=size)
    known = draw_known(potentials, num_unknown=4)
    states = AIS.map_states(potentials, known=known)
    score = potentials.log_score(states)
    close(score, expected(oracles(potentials, known), "best_score", score), 1e-9)
    assert states.dtype == torch.int64
    assert bool(((states == known) | (known == -1)).all())


def test_same_seed_same_bits() -> None:
    """The seed decides every bit, and the global generator is left alone."""
    potentials = make_potentials(pairwise=2.0)
    torch.manual_seed(1)
    before = AIS(potentials)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    after = AIS(potentials)
    assert torch.equal(torch.get_rng_state(), state)
    assert before.samples is not None
    assert after.samples is not None
    assert torch.equal(before.marginals, after.marginals)
    assert torch.equal(before.log_partition, after.log_partition)
    assert torch.equal(before.samples, after.samples)
    other = dataclasses.replace(AIS, seed=1)(potentials)
    assert not torch.equal(other.log_partition, before.log_partition)


@pytest.mark.parametrize("varies", [False, True])
def test_images_do_not_touch_each_other(varies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, or in chunks of one image, an image has the same beliefs within sampling error."""
    potentials = make_potentials(3, 5, unary=2.0, varies=varies)
    truth = oracles(potentials)
    wanted = expected(truth, "log_partition", potentials.unary)
    known = draw_known(potentials, num_unknown=3)
    clamped = expected(oracles(potentials, known), "log_partition", wanted)
    monkeypatch.setattr(annealing, "_CHUNK_ENTRIES", 1)
    close(AIS(potentials).log_partition, wanted, 0.1)
    close(AIS(potentials, known=known).log_partition, clamped, 0.1)
    for row in range(3):
        one = slice(row, row + 1)
        alone = AIS(potentials.rows(one), known=known[one])
        close(alone.log_partition, clamped[one], 0.1)


def test_too_few_temperatures_are_reported() -> None:
    """Where few chains carry the weight, the advice says for how many images and what to do."""
    potentials = make_potentials(2, 12, pairwise=5.0)
    weak = Potentials(potentials.unary, potentials.edges, potentials.pairwise * 0)
    both = Potentials(
        torch.cat([potentials.unary, weak.unary]),
        potentials.edges,
        torch.stack([potentials.pairwise] * 2 + [weak.pairwise] * 2),
    )
    posterior = dataclasses.replace(AIS, temperatures=1)(both)
    assert posterior.converged.tolist() == [False, False, True, True]
    assert "of 64 chains are effective for 2 of 4 images; raise temperatures" in posterior.advice


def test_effective_chains_and_error_by_their_formulas() -> None:
    """Weights 1, 1, 2: effective 16 / 6, relative variance of the mean 1/8 of 1/3 over 3/8."""
    log_weights = torch.tensor([[0.0], [0.0], [math.log(2)]], dtype=torch.float64) + 700
    annealed = Annealed(torch.zeros(3, 1, 1), log_weights, torch.zeros(1, 1))
    assert float(annealed.effective_chains) == pytest.approx(16 / 6)
    assert float(annealed.log_partition) == pytest.approx(700 + math.log(4 / 3))
    variance = (2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 3  # of the weights about their mean of 4/3
    assert float(annealed.standard_error) == pytest.approx(math.sqrt(variance / 3) / (4 / 3))


def test_resampling_follows_the_weights() -> None:
    """Of S chains each is drawn S w / sum w times, rounded down or up; images on their own."""
    weights = torch.tensor([[0.1, 4.0], [2.5, 0.0], [1.4, 0.0], [0.0, 0.0]], dtype=torch.float64)
    states = torch.eye(4, dtype=torch.uint8)[:, None].expand(4, 2, 4)  # chain s has label s
    annealed = Annealed(states, weights.log(), torch.zeros(2, 4))
    total = torch.zeros(2, 4)
    for seed in range(200):
        counts = annealed.resampled(torch.Generator().manual_seed(seed)).sum(0)
        assert bool((counts[0] >= torch.tensor([0, 2, 1, 0])).all())
        assert bool((counts[0] <= torch.tensor([1, 3, 2, 0])).all())
        assert counts[1].tolist() == [4, 0, 0, 0]
        total += counts
    close(total / 200, weights.T.float(), 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 30.0])
def test_finite_at_large_potentials(size: float, dtype: torch.dtype) -> None:
    """Unaries of 50 and couplings of 30 give finite beliefs between 0 and 1, of the same type."""
    made = make_potentials(8, 6, pairwise=size, dtype=dtype)
    potentials = Potentials(50 * made.unary.sign(), made.edges, made.pairwise)
    posterior = AIS(potentials)
    assert posterior.marginals.dtype == posterior.log_partition.dtype == dtype
    assert bool(((posterior.marginals >= 0) & (posterior.marginals <= 1)).all())
    assert bool(posterior.log_partition.isfinite().all())


@pytest.mark.parametrize("varies", [False, True])
def test_nothing_to_sample(varies: bool) -> None:
    """No image, and no edge, are fine."""
    shape = (0, 3) if varies else (3,)
    empty = AIS(Potentials(torch.zeros(0, 3), full_edges(3), torch.zeros(shape)))
    assert empty.marginals.shape == (0, 3)
    assert empty.log_partition.shape == (0,)
    assert empty.samples is not None
    assert empty.samples.shape == (64, 0, 3)
    shape = (2, 0) if varies else (0,)
    lone = AIS(Potentials(torch.ones(2, 1), full_edges(1), torch.zeros(shape)))
    close(lone.marginals, torch.ones(2, 1).sigmoid(), 1e-6)
