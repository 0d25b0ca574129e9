"""The sampler by its kernel: one sweep leaves the distribution as it is, and reaches all of it."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Fields, Potentials, check_known, full_edges
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact, Gibbs, JunctionTree, LogPartitionKind, Posterior
from mlcrf.inference import gibbs_sampling as gibbs
from mlcrf.inference.gibbs import chains, streams
from mlcrf.inference.gibbs.chains import Engine, run_chains, sweep
from mlcrf.inference.gibbs.sample_averages import (
    conditional_means,
    conditional_pairs,
    conditional_totals,
    estimate_log_partition,
    pair_totals,
)
from mlcrf.inference.gibbs.streams import random_states, stream_keys
from mlcrf.rules import Rules
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import oracles

TINY = 2.0**-60


def all_states(num_labels: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=num_labels))


def sweep_matrix(potentials: Potentials, known: Tensor) -> tuple[Tensor, Tensor]:
    """Probability that one shipped sweep takes each state to each other, by bisection.

    A label is drawn present where its uniform is not above a threshold. Uniforms of almost 0 and
    of 1 steer the labels before it to the state wanted; between them the threshold is looked for.

    Returns:
        The (2^L, 2^L) matrix, and by how much at most a threshold differs from the probability
        that the sweep says it drew from.
    """
    num_labels = potentials.num_labels
    states = all_states(num_labels)
    pairs = list(product(states, repeat=2))
    start = torch.tensor([one for one, _ in pairs], dtype=torch.float64)[:, None]
    end = torch.tensor([other for _, other in pairs], dtype=torch.float64)[:, None]
    fields = Fields(potentials)

    def swept(uniforms: Tensor) -> tuple[Tensor, Tensor]:
        y = start.clone()
        return y, sweep(fields, y, known, uniforms)

    steer = torch.where(end == 1, TINY, 1.0).double()
    total = torch.ones(len(pairs), dtype=torch.float64)
    worst = torch.zeros(())
    for label in range(num_labels):
        low, high = torch.zeros_like(total), torch.ones_like(total)
        for _ in range(53):
            middle = (low + high) / 2
            uniforms = steer.clone()
            uniforms[:, 0, label] = middle
            present = swept(uniforms)[0][:, 0, label] == 1
            low, high = torch.where(present, middle, low), torch.where(present, high, middle)
        total *= torch.where(end[:, 0, label] == 1, low, 1 - low)
        worst = torch.maximum(worst, (swept(steer)[1][:, 0, label] - low).abs().max())
    return total.reshape(len(states), len(states)), worst


def errors(posterior: Posterior, method: Gibbs) -> Tensor:
    """Standard error of each marginal, from how the chains' means differ (N, L)."""
    assert posterior.samples is not None
    chains = posterior.samples.unflatten(0, (method.sweeps, method.chains)).double().mean(0)
    return (chains.var(0) / method.chains).sqrt()


def two_modes(num_labels: int, unary: float, coupling: float) -> Potentials:
    edges = full_edges(num_labels)
    start = torch.full((1, num_labels), unary, dtype=torch.float64)
    return Potentials(start, edges, torch.full((len(edges),), coupling, dtype=torch.float64))


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_one_sweep_leaves_the_distribution(num_labels: int, varies: bool) -> None:
    """With P the matrix of one sweep pi P = pi, and many sweeps lead from any state to pi."""
    potentials = make_potentials(1, num_labels, unary=1.5, pairwise=2.0, varies=varies)
    matrix, worst = sweep_matrix(potentials, torch.full((1, num_labels), -1))
    pi = torch.tensor(list(oracles(potentials)[0].probabilities.values()), dtype=torch.float64)
    close(pi @ matrix, pi, 1e-12)
    close(torch.linalg.matrix_power(matrix, 200), pi.expand(len(pi), -1), 1e-9)
    assert worst < 1e-12


@pytest.mark.parametrize("value", [0, 1])
def test_one_sweep_leaves_the_clamped_distribution(value: int) -> None:
    """With a label known the same holds among the states that agree, and no other is reached."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0)
    known = torch.tensor([[-1, value, -1]])
    probabilities = oracles(potentials, known)[0].probabilities
    states = all_states(3)
    agree = torch.tensor([state in probabilities for state in states])
    matrix, _ = sweep_matrix(potentials, known)
    inside = matrix[agree][:, agree]
    pi = torch.tensor(list(probabilities.values()), dtype=torch.float64)
    close(pi @ inside, pi, 1e-12)
    assert float(matrix[agree][:, ~agree].max()) < 1e-15
    close(torch.linalg.matrix_power(inside, 200), pi.expand(4, -1), 1e-9)


def test_sweep_uses_each_images_own_potentials() -> None:
    """In a batch, the first label is drawn from its conditional in each image and chain."""
    potentials = make_potentials(4, 3, pairwise=3.0, varies=True)
    y = torch.tensor([[[1.0, 0, 1]] * 4, [[0.0, 1, 1]] * 4], dtype=torch.float64)
    wanted = potentials.conditional_logits(y)[..., 0].sigmoid()
    halves = torch.full((2, 4, 3), 0.5, dtype=torch.float64)
    drawn = sweep(Fields(potentials), y, torch.full((4, 3), -1), halves)
    close(drawn[..., 0], wanted, 1e-12)
    assert torch.equal(y, (drawn >= 0.5).double())


@pytest.mark.parametrize(
    ("engine", "dtype"), list(product((Engine.NUMBA, Engine.TORCH), (torch.float32, torch.float64)))
)
def test_a_run_from_end_to_end(engine: Engine, dtype: torch.dtype) -> None:
    """Marginals, of pairs too, are within five standard errors of brute force, log Z near it."""
    method = Gibbs(chains=40, seed=4, pairwise_marginals=True, engine=engine)
    potentials = make_potentials(3, 6, unary=1.5, pairwise=1.5, dtype=dtype)
    truth, posterior = oracles(potentials), method(potentials)
    assert posterior.log_partition_kind is LogPartitionKind.ESTIMATE
    assert bool(posterior.converged.all())
    samples, pairs = posterior.samples, posterior.pairwise_marginals
    assert samples is not None
    assert pairs is not None
    assert samples.shape == (2000, 3, 6)
    assert samples.dtype == torch.uint8
    p = expected(truth, "marginals", potentials.unary)
    error = errors(posterior, method).to(dtype)
    close(posterior.marginals, p, 5 * error)
    close(samples.to(dtype).mean(0), p, 5 * error)
    edges = potentials.edges.tolist()
    wanted = torch.tensor([one.pairwise_marginals(edges) for one in truth], dtype=dtype)
    close(pairs, wanted, 0.03)
    # averaging probabilities instead of draws must gain
    frequencies = samples.to(dtype).mean(0)
    assert float((posterior.marginals - p).abs().mean()) < float((frequencies - p).abs().mean())
    plain = samples.to(dtype)[..., potentials.edges].prod(-1).mean(0)
    assert float((pairs - wanted).abs().mean()) < float((plain - wanted).abs().mean())
    close(posterior.log_partition, expected(truth, "log_partition", p), 0.1)


def test_ten_labels_against_exact() -> None:
    """A long run comes as close to exact as its errors say, and no closer by luck."""
    potentials = make_potentials(8, 10, unary=2.0, pairwise=0.8)
    method = Gibbs(chains=64, sweeps=1000)
    posterior, exact = method(potentials), Exact(pairwise_marginals=True)(potentials)
    off = (posterior.marginals - exact.marginals) / errors(posterior, method)
    assert float(off.abs().max()) < 4
    assert 0.1 < float(off.square().mean().sqrt()) < 1  # below 1 for Rao and Blackwell
    close(posterior.log_partition, exact.log_partition, 0.01)


def test_stuck_chains_are_reported() -> None:
    """Chains that end in one of two modes have not converged, and the advice says what to do."""
    edges = full_edges(8)
    pairwise = torch.where((edges[:, 0] - edges[:, 1]) % 2 == 0, 4.0, -4.0)  # even or odd labels
    potentials = Potentials(torch.tensor([[0.0] * 8, [-40.0] * 8]), edges, pairwise)
    posterior = Gibbs(chains=30)(potentials)
    assert posterior.converged.tolist() == [False, True]
    assert "1 of 2 images have a split R-hat above 1.1 or fewer" in posterior.advice
    assert "Try --inference exact" in posterior.advice


@pytest.mark.parametrize(
    ("num_labels", "unary", "coupling"),
    [
        (2, 10.0, -20.0),  # one of two labels, but never both
        (4, -30.0, 20.0),  # all of four labels, or none
    ],
)
def test_a_mode_that_is_missed_is_not_called_converged(
    num_labels: int, unary: float, coupling: float
) -> None:
    """With two equal modes, chains are right on average or say that they have not converged."""
    posterior = Gibbs()(two_modes(num_labels, unary, coupling))
    right = (posterior.marginals - 0.5).abs().max() < 0.2
    assert bool(right) or not bool(posterior.converged)


def hub(num_labels: int = 60) -> Potentials:
    """All labels, in a mode with most of the mass that chains rarely begin in, or hardly any."""
    edges = torch.stack([torch.zeros(num_labels), torch.arange(1, num_labels + 1)], 1).long()
    pairwise = torch.full((num_labels,), 12.0, dtype=torch.float64)
    unary = torch.full((1, num_labels + 1), -4.0, dtype=torch.float64)
    unary[0, 0] = 6.0 - 8 * num_labels
    return Potentials(unary, edges, pairwise)


def test_log_z_below_a_score_is_not_called_converged() -> None:
    """Chains agree with each other, and miss a label set whose score alone is above their log Z."""
    posterior = Gibbs()(hub())
    assert posterior.samples is not None and not bool(posterior.samples[..., 0].any())
    assert float(posterior.log_partition) < 2
    assert not bool(posterior.converged)
    assert "1 of 1 images have a log Z below the score of a label set" in posterior.advice
    assert posterior.log_partition_error is not None
    assert bool(posterior.log_partition_error.isinf())


@pytest.mark.parametrize("pairwise", [0.8, 1.5])
def test_log_z_is_as_exact_as_its_error_says(pairwise: float) -> None:
    """Over replicates, errors of log Z have the size of the standard errors."""
    one = make_potentials(1, 8, unary=1.5, pairwise=pairwise, seed=1)
    posterior = Gibbs()(one.rows(torch.zeros(300, dtype=torch.int64)))
    truth = Exact()(one).log_partition
    kept = posterior.converged
    assert int(kept.sum()) > 150
    error = posterior.log_partition_error
    assert error is not None
    scaled = (posterior.log_partition - truth)[kept] / error[kept]
    assert 0.8 < float(scaled.square().mean().sqrt()) < 1.4
    assert float(error[kept].mean()) < 0.1


def test_log_z_of_many_labels_is_not_claimed() -> None:
    """No sweep leads to the likeliest of so many states: marginals are good, log Z is unknown."""
    first = torch.arange(599)
    generator = torch.Generator().manual_seed(0)
    unary, pairwise = (torch.randn(n, generator=generator).double() for n in (600, 599))
    potentials = Potentials(unary[None], torch.stack([first, first + 1], 1), 1.5 * pairwise)
    posterior, truth = Gibbs(sweeps=200)(potentials), JunctionTree()(potentials)
    assert bool(posterior.converged)
    close(posterior.marginals, truth.marginals, 0.1)
    assert posterior.log_partition_error is not None
    off = (posterior.log_partition - truth.log_partition).abs()
    assert bool(posterior.log_partition_error.isinf()) and float(off) > 0.5


def test_sweeps_go_on_after_burn_in() -> None:
    """Three sweeps thrown away and four kept are the last four of seven, with new draws."""
    potentials = make_potentials(2, 4)
    method = Gibbs(chains=10, burn_in=3, sweeps=4, seed=5)
    keys = stream_keys(5, torch.arange(2), chains=10)
    run = run_chains(potentials, random_states(keys, 4), sweeps=7, seed=5, thin=1)
    samples = method(potentials).samples
    assert samples is not None
    assert torch.equal(samples.unflatten(0, (4, 10)), run.samples[3:])
    best = method.map_states(potentials)
    likeliest = potentials.log_score(samples).amax(0)
    assert bool((potentials.log_score(best) >= likeliest - 1e-12).all())


def test_no_burn_in() -> None:
    """The first sweep kept starts from labels drawn with probability 1/2."""
    potentials = Potentials(torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([8.0]))
    first = Gibbs(chains=4000, burn_in=0, sweeps=1)(potentials)
    # label 0 sees label 1 present in half of the chains
    wanted = (torch.tensor(0.0).sigmoid() + torch.tensor(8.0).sigmoid()) / 2
    assert float((first.marginals[0, 0] - wanted).abs()) < 0.03


def test_few_effective_samples_are_reported() -> None:
    """An image has converged only if its samples are worth at least 100 independent ones."""
    potentials = Potentials(torch.zeros(2, 4), full_edges(4), torch.zeros(6))
    few, enough = (Gibbs(chains=10, sweeps=sweeps)(potentials) for sweeps in (9, 20))
    assert not bool(few.converged.any())
    assert "2 of 2 images have" in few.advice
    assert bool(enough.converged.all())
    assert not enough.advice


def test_blocks_of_images_and_thinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by blocks of images, and by keeping the samples of every third sweep."""
    potentials = make_potentials(5, 4, dtype=torch.float32)
    method = Gibbs(chains=4, sweeps=12, pairwise_marginals=True)
    whole = method(potentials)
    monkeypatch.setattr(gibbs, "_BLOCK_BYTES", 2 * 4 * 12 * 4)  # two images
    blocked = method(potentials)
    assert torch.equal(whole.marginals, blocked.marginals)
    close(whole.log_partition, blocked.log_partition, 1e-5)
    assert whole.samples is not None
    assert blocked.samples is not None
    assert torch.equal(whole.samples, blocked.samples)
    kept = whole.samples.unflatten(0, (12, 4))
    monkeypatch.setattr(gibbs, "_KEPT_BYTES", 4 * 12 * 5 * 4 // 3)
    thin = method(potentials)
    assert thin.samples is not None
    assert torch.equal(thin.samples, kept[::3].flatten(0, 1))
    assert torch.equal(thin.marginals, whole.marginals)
    monkeypatch.setattr(gibbs, "_BLOCK_BYTES", 4 * 12 * 4 // 2)  # half an image
    thin = method(potentials)
    assert thin.samples is not None
    assert torch.equal(thin.samples, kept[1::4].flatten(0, 1))  # every second sweep, half of them
    assert torch.equal(thin.marginals, whole.marginals)


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.TORCH])
def test_implications_hold(engine: Engine) -> None:
    """No sample has a child without its parent; beliefs are those of the states that are left."""
    made = make_potentials(3, 4)
    rules = Rules(((0, 1), (3, 1)))
    potentials = Potentials(made.unary, made.edges, made.pairwise, rules)
    known = torch.tensor([[-1] * 4, [-1, -1, 1, -1], [1, -1, -1, -1]])
    method = Gibbs(chains=50, pairwise_marginals=True, engine=engine)
    posterior = method(potentials, known=known)
    samples = posterior.samples
    assert samples is not None
    for child, parent in rules.pairs:
        assert bool((samples[..., child] <= samples[..., parent]).all())
    assert bool((samples[:, 2, 1] == 1).all())
    truth = oracles(potentials.as_couplings(), check_known(potentials, known))
    wanted = expected(truth, "marginals", made.unary)
    close(posterior.marginals, wanted, 5 * errors(posterior, method) + 1e-6)
    close(posterior.log_partition, expected(truth, "log_partition", wanted), 0.1)
    assert posterior.pairwise_marginals is not None
    assert posterior.pairwise_marginals.shape == (3, 6)


def test_no_edges_and_no_images_in_torch() -> None:
    """Labels without couplings are exact; a batch of none has beliefs about none."""
    engine = Engine.TORCH
    nothing = torch.empty((0, 2), dtype=torch.int64)
    potentials = Potentials(torch.randn(3, 4).double(), nothing, torch.empty(0).double())
    posterior = Gibbs(pairwise_marginals=True, engine=engine)(potentials)
    close(posterior.marginals, potentials.unary.sigmoid(), 1e-12)
    for none in (make_potentials(0, 3), make_potentials(0, 3, varies=True)):
        posterior = Gibbs(pairwise_marginals=True, engine=engine)(none)
        assert posterior.marginals.shape == posterior.pairwise_marginals.shape == (0, 3)  # type: ignore[union-attr]
        assert posterior.log_partition.shape == posterior.converged.shape == (0,)
        assert Gibbs(engine=engine).map_states(none).shape == (0, 3)


@pytest.mark.parametrize(
    ("engine", "dtype"), [(Engine.NUMBA, torch.float32), (Engine.TORCH, torch.float64)]
)
def test_finite_at_large_potentials(engine: Engine, dtype: torch.dtype) -> None:
    """Unaries of 50 and couplings of 30 give finite beliefs."""
    made = make_potentials(4, 7, pairwise=30.0, dtype=dtype)
    potentials = Potentials(50 * made.unary.sign(), made.edges, 30 * made.pairwise.sign())
    known = draw_known(potentials, num_unknown=5)
    method = Gibbs(engine=engine, pairwise_marginals=True)
    posterior = method(potentials, known=known)
    assert posterior.pairwise_marginals is not None
    for value in (posterior.marginals, posterior.pairwise_marginals):
        assert value.dtype == dtype
        assert bool(((value >= 0) & (value <= 1)).all())
    assert bool(posterior.log_partition.isfinite().all())


def test_a_thousand_labels() -> None:
    """Disjoint pairs have closed forms: marginals of labels and edges agree with them."""
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(2, 1000, generator=generator)
    edges = torch.arange(1000).reshape(-1, 2)
    pairwise = 2 * torch.randn(500, generator=generator)
    potentials = Potentials(unary, edges, pairwise)
    method = Gibbs(chains=32, sweeps=200, pairwise_marginals=True)
    posterior = method(potentials)
    first, second = unary[:, 0::2].double(), unary[:, 1::2].double()
    both = first + second + pairwise
    log_z = torch.stack([torch.zeros_like(both), first, second, both]).logsumexp(0)
    wanted = torch.stack([first, second], -1).logaddexp(both[..., None]) - log_z[..., None]
    assert posterior.pairwise_marginals is not None
    off = (posterior.marginals - wanted.exp().flatten(1)) / errors(posterior, method)
    assert float(off.abs().max()) < 5
    close(posterior.pairwise_marginals.double(), (both - log_z).exp(), 0.05)


@pytest.mark.parametrize("num_labels", [4, 130])
def test_averages_by_their_formulas(num_labels: int) -> None:
    """Means of conditionals and of pairs are those of plain Python, by matrix or by edges."""
    made = make_potentials(2, num_labels, varies=num_labels == 4)
    chosen = made.edges[:, 0] < 4
    pairwise = made.pairwise[..., chosen]
    potentials = Potentials(made.unary, made.edges[chosen][:, [0, 1]], pairwise)
    known = draw_known(potentials, num_unknown=num_labels - 1)
    states = (torch.rand(5, 2, num_labels) < 0.5).long()
    states = torch.where(known == -1, states, known)
    p = potentials.conditional_logits(states).sigmoid()
    p = torch.where(known == -1, p, known.double())
    close(conditional_means(potentials, states.to(torch.uint8), known), p.mean(0), 1e-12)
    pairs = conditional_pairs(potentials, states.to(torch.uint8), known)
    totals = pair_totals(states.flatten(0, 1).double(), p.flatten(0, 1), potentials.edges)
    for at, (i, j) in list(enumerate(potentials.edges.tolist()))[:: num_labels // 4]:
        wanted = ((states[..., i] * p[..., j] + p[..., i] * states[..., j]) / 2).mean(0)
        close(pairs[:, at], wanted, 1e-12)
        close(totals[at], (states[..., i] * p[..., j]).sum(), 1e-9)
    summed = conditional_totals(potentials, states.to(torch.uint8), known)
    close(summed, pairs.sum(0), 1e-9)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("known_label", [None, 1])
def test_log_partition_by_its_formula(known_label: int | None, varies: bool) -> None:
    """From a single sample it is the score of y* less the log-probability of a sweep to y*."""
    potentials = make_potentials(1, 3, unary=1.5, pairwise=2.0, varies=varies)
    known = torch.tensor([[-1, -1, -1]])
    if known_label is not None:
        known[0, known_label] = 1
    matrix, _ = sweep_matrix(potentials, known)
    states = all_states(3)
    for at, state in enumerate(states):
        if known_label is not None and not state[known_label]:
            continue
        sample = torch.tensor(state, dtype=torch.uint8)[None, None]
        log_z, best, _ = estimate_log_partition(potentials, sample, known)
        chance = matrix[at, states.index(tuple(best[0].tolist()))].log()
        close(log_z, potentials.log_score(best) - chance, 1e-9)


def test_log_partition_of_many_labels() -> None:
    """Above 128 labels it goes by edges: the same as for the same model as a matrix."""
    small = make_potentials(3, 6)
    many = Potentials(
        torch.cat([small.unary, torch.zeros(3, 130).double()], 1), small.edges, small.pairwise
    )
    states = (torch.rand(4, 3, 136) < 0.5).to(torch.uint8)
    states[..., 6:] = 0
    free, known = torch.full((3, 6), -1), torch.zeros(3, 136, dtype=torch.int64)
    known[:, :6] = -1
    log_z, best, _ = estimate_log_partition(small, states[..., :6], free)
    wide_log_z, wide_best, _ = estimate_log_partition(many, states, known)
    close(wide_log_z, log_z, 1e-12)
    assert torch.equal(wide_best[:, :6], best)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains: expected at least 1, got 0"),
        ({"sweeps": -1}, "sweeps: expected at least 1, got -1"),
        ({"burn_in": -1}, "burn_in: expected at least 0, got -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, int], message: str) -> None:
    """Numbers of which nothing comes are refused when the method is made."""
    with pytest.raises(SettingsError, match=message):
        Gibbs(**settings)  # type: ignore[arg-type]
    assert Gibbs(chains=1, burn_in=0, sweeps=1), "the limits themselves are allowed"


def test_totals_of_many_labels() -> None:
    """Beyond 128 labels sums are made for the edges alone, in whatever order these come."""
    generator = torch.Generator().manual_seed(4)
    edges = full_edges(150)
    edges = edges[torch.randperm(len(edges), generator=generator)[:500]]
    left, right = torch.randn(2, 70, 150, generator=generator, dtype=torch.float64)
    wanted = (left.T @ right)[edges[:, 0], edges[:, 1]]
    close(pair_totals(left, right, edges), wanted, 1e-12)
    assert pair_totals(left, right, edges[:0]).shape == (0,)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_sums_of_present_labels_are_those_of_all(share: float) -> None:
    """Beyond 128 labels: pairs, log Z and y* by the formulas over all labels, rules included."""
    generator = torch.Generator().manual_seed(6)
    edges = full_edges(140)[torch.randperm(9730, generator=generator)[:600]]
    unary = torch.randn(3, 140, generator=generator).double()
    pairwise = torch.randn(600, generator=generator).double()
    potentials = Potentials(unary, edges, pairwise, Rules(((3, 7), (9, 2))))
    known = torch.full((3, 140), -1)
    known[0, 5], known[1, 8] = 1, 0
    states = (torch.rand(7, 3, 140, generator=generator) < share).long()
    states = torch.where(known == -1, states, known)
    potentials = potentials.as_couplings()
    fields, samples = Fields(potentials), states.to(torch.uint8)
    p = torch.where(known == -1, fields.all(states.double()).sigmoid(), known.double())
    first, second = potentials.edges.T
    y = states.double()
    wanted = (y[..., first] * p[..., second] + p[..., first] * y[..., second]).mean(0).sum(0) / 2
    close(conditional_totals(potentials, samples, known), wanted, 1e-11)
    log_z, best, _ = estimate_log_partition(potentials, samples, known)
    scores = potentials.log_score(states)
    assert bool((potentials.log_score(best) >= scores.amax(0) - 1e-9).all())
    end = best.double()
    odds = fields.all(end) - fields.later(end) + fields.later(y)
    step = ((2 * end - 1) * odds).sigmoid().log().where(known == -1, 0.0).sum(-1)
    close(log_z, potentials.log_score(best) - (step.logsumexp(0) - math.log(7)), 1e-9)


@pytest.mark.parametrize("varies", [False, True])
def test_images_one_after_the_other_draw_the_same(
    varies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States to begin with, and chains, do not depend on how many images are worked on at once."""
    potentials = make_potentials(5, 6, varies=varies)
    known = draw_known(potentials, num_unknown=4)
    keys = stream_keys(3, torch.arange(5), chains=4)

    def work() -> tuple[Tensor, ...]:
        states = random_states(keys, 6)
        run = run_chains(potentials, states, sweeps=3, known=known, thin=2)
        return (states, *run)

    whole = work()
    monkeypatch.setattr(chains, "_AT_ONCE", 2 * 4 * 6)
    monkeypatch.setattr(streams, "_AT_ONCE", 2 * 4 * 6)
    for one, other in zip(whole, work(), strict=True):
        assert torch.equal(one, other)


def test_first_states_are_draws_of_the_streams() -> None:
    """Half of the uniforms of a sweep before the first."""
    keys = stream_keys(2**40 + 3, torch.arange(70), chains=3)
    wanted = streams.uniforms(keys, -1, 11) <= 0.5
    assert torch.equal(random_states(keys, 11), wanted.to(torch.uint8))
    assert random_states(keys[..., :0], 11).shape == (3, 0, 11)
