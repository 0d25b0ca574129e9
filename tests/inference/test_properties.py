"""What every inference method must do, whatever its algorithm."""

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.inference import (
    Exact,
    Gibbs,
    Independent,
    InferenceMethod,
    LogPartitionKind,
    MeanField,
    Posterior,
)
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import oracles

EXACT = Exact(pairwise_marginals=True)
MEAN_FIELD = MeanField(max_sweeps=500, tolerance=1e-10)
GIBBS = Gibbs(chains=25, burn_in=10, sweeps=16)
INDEPENDENT = Independent()


def methods(*chosen: InferenceMethod) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", chosen, ids=[one.name for one in chosen])


def spread(method: InferenceMethod, posterior: Posterior) -> float | Tensor:
    """Five standard errors of a sampler's marginals by its effective sample size; else rounding."""
    if not isinstance(method, Gibbs):
        return 1e-8
    assert posterior.samples is not None
    chains = posterior.samples.unflatten(0, (method.sweeps, method.chains)).double().mean(0)
    p = chains.mean(0)
    effective = p * (1 - p) / (chains.var(0) / method.chains)
    effective = effective.nan_to_num(1.0).clamp(1.0, method.sweeps * method.chains)
    return 5 * (p * (1 - p) / effective).sqrt() + 1e-3


@cache
def problem(num_labels: int, dtype: torch.dtype, unary: float, pairwise: float) -> Potentials:
    return make_potentials(2, num_labels, unary=unary, pairwise=pairwise, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_labels", [1, 2, 3, 5, 8, 10])
@pytest.mark.parametrize("sizes", [(2.0, 1.0), (50.0, 5.0), (2.0, 30.0), (50.0, 30.0)])
def test_exact_equals_brute_force(
    num_labels: int, dtype: torch.dtype, sizes: tuple[float, float]
) -> None:
    """Log Z, marginals, pairwise marginals and the best score are those of enumeration."""
    potentials = problem(num_labels, dtype, *sizes)
    truth, posterior = oracles(potentials), EXACT(potentials)
    assert posterior.log_partition_kind is LogPartitionKind.EXACT
    assert posterior.pairwise_marginals is not None
    log_z = expected(truth, "log_partition", potentials.unary)
    pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
    fine = dtype == torch.float64
    close(posterior.log_partition, log_z, (1e-13 if fine else 2e-7) * (log_z.abs() + 20))
    tolerance = 1e-11 if fine else 1e-6
    close(posterior.marginals, expected(truth, "marginals", log_z), tolerance)
    pairs_wanted = torch.tensor(pairs, dtype=dtype).reshape(2, -1)
    close(posterior.pairwise_marginals, pairs_wanted, tolerance)
    best = potentials.log_score(EXACT.map_states(potentials))
    close(best, expected(truth, "best_score", log_z), 1e-12 if fine else 1e-3)


@methods(EXACT, MEAN_FIELD, GIBBS)
def test_marginals_near_brute_force(method: InferenceMethod) -> None:
    """At weak couplings exact is right, sampling within its error, mean field a little off."""
    potentials = make_potentials(4, 6, pairwise=0.4)
    posterior = method(potentials)
    wanted = expected(oracles(potentials), "marginals", potentials.unary)
    assert bool(posterior.converged.all())
    assert posterior.advice == ""
    close(posterior.marginals, wanted, 0.03 if method is MEAN_FIELD else spread(method, posterior))


@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_zero_coupling_gives_sigmoid_of_unary(method: InferenceMethod) -> None:
    """Without coupling every method is exact, in log Z as well: bounds are tight there."""
    potentials = make_potentials(4, 5, unary=4.0, pairwise=0.0)
    if method is not INDEPENDENT:
        zeros = torch.zeros(10, dtype=torch.float64)
        potentials = Potentials(potentials.unary, full_edges(5), zeros)
    posterior = method(potentials)
    close(posterior.marginals, potentials.unary.sigmoid(), 1e-12)
    close(posterior.log_partition, torch.nn.functional.softplus(potentials.unary).sum(-1), 1e-12)
    assert torch.equal(method.map_states(potentials), (potentials.unary > 0).long())


def test_independent_refuses_edges() -> None:
    """The closed form is for no edge at all, and says how many there are."""
    with pytest.raises(PotentialsError, match="expected no edge, got 10"):
        INDEPENDENT(make_potentials())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [5, 2])
@methods(EXACT, MEAN_FIELD, INDEPENDENT)
def test_marginals_are_the_gradient_of_log_partition(
    method: InferenceMethod, num_unknown: int, varies: bool
) -> None:
    """The derivative of log Z, or of the bound, is the marginals; finite differences agree."""
    size = 0.0 if method is INDEPENDENT else 0.6
    made = make_potentials(2, 5, pairwise=size, varies=varies)
    known = draw_known(made, num_unknown=num_unknown)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()

    def log_partition(unary: Tensor, pairwise: Tensor) -> Tensor:
        return method(Potentials(unary, made.edges, pairwise), known=known).log_partition

    assert torch.autograd.gradcheck(log_partition, (unary, pairwise))
    posterior = method(Potentials(unary, made.edges, pairwise), known=known)
    weights = torch.tensor(
        [1.0, -3.0], dtype=torch.float64
    )  # each image with a gradient of its own
    slope, pair_slope = torch.autograd.grad(
        posterior.log_partition, (unary, pairwise), weights, materialize_grads=True
    )
    close(slope, weights[:, None] * posterior.marginals.detach(), 1e-7)
    if posterior.pairwise_marginals is not None:
        by_image = weights[:, None] * posterior.pairwise_marginals
        close(pair_slope, by_image if varies else by_image.sum(0), 1e-12)


@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_relabelling_permutes(method: InferenceMethod) -> None:
    """Labels in another order have the same beliefs in that order."""
    potentials = make_potentials(3, 5, pairwise=0.0 if method is INDEPENDENT else 0.6)
    order = torch.tensor([3, 0, 4, 1, 2])
    edges = torch.combinations(torch.arange(5)) if len(potentials.edges) else potentials.edges
    matrix = potentials.pairwise_matrix()[order][:, order]
    moved = Potentials(potentials.unary[:, order], edges, matrix[edges[:, 0], edges[:, 1]])
    before, after = method(potentials), method(moved)
    tolerance = spread(method, after) if method is GIBBS else 1e-8
    close(after.marginals, before.marginals[:, order], 2 * tolerance)
    close(after.log_partition, before.log_partition, 0.1 if method is GIBBS else 1e-8)
    states = method.map_states(potentials)[:, order]
    assert torch.equal(moved.log_score(method.map_states(moved)), moved.log_score(states))


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("varies", [False, True])
@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_a_batch_equals_its_rows(method: InferenceMethod, varies: bool, clamp: bool) -> None:
    """An image has the same beliefs alone as among others, couplings of its own included."""
    size = 0.0 if method is INDEPENDENT else 0.6
    batch = make_potentials(4, 5, pairwise=size, varies=varies)
    known = draw_known(batch, num_unknown=3 if clamp else 5)
    whole, best = method(batch, known=known), method.map_states(batch, known=known)
    for row in range(4):
        one = slice(row, row + 1)
        pairwise = batch.pairwise[row] if varies else batch.pairwise  # shared by a batch of one
        alone = Potentials(batch.unary[one], batch.edges, pairwise)
        posterior = method(alone, known=known[one])
        close(posterior.marginals, whole.marginals[one], 2 * spread(method, posterior))
        tolerance = 0.1 if method is GIBBS else 1e-8
        close(posterior.log_partition, whole.log_partition[one], tolerance)
        assert torch.equal(method.map_states(alone, known=known[one]), best[one])


@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_same_seed_same_bits(method: InferenceMethod) -> None:
    """Twice the same call gives the same bits, whatever the global generator is doing."""
    potentials = make_potentials(pairwise=0.0 if method is INDEPENDENT else 2.0)
    torch.manual_seed(1)
    before, states = method(potentials), method.map_states(potentials)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    after = method(potentials)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(before.marginals, after.marginals)
    assert torch.equal(before.log_partition, after.log_partition)
    assert torch.equal(states, method.map_states(potentials))


def test_another_seed_other_draws() -> None:
    """The seed of a sampler is not ignored."""
    potentials = make_potentials()
    other = dataclasses.replace(GIBBS, seed=1)
    assert not torch.equal(GIBBS(potentials).marginals, other(potentials).marginals)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
def test_converged_mean_field_meets_its_fixed_point(size: float) -> None:
    """Where it says converged, q = sigmoid(unary + sum_j pairwise_ij q_j) holds."""
    potentials = make_potentials(20, 6, unary=3.0, pairwise=size)
    posterior = MEAN_FIELD(potentials)
    assert int(posterior.converged.sum()) >= 15
    q = posterior.marginals[posterior.converged]
    fields = potentials.rows(posterior.converged).conditional_logits(q)
    close(fields.sigmoid(), q, 1e-10 * (1 + 6 * size))


def test_mean_field_says_when_it_has_not_converged() -> None:
    """Cut short, it says for which images and what to do; sweeps counts what was made."""
    posterior = MeanField(max_sweeps=2, tolerance=1e-10)(make_potentials(3, 5, pairwise=3.0))
    assert not bool(posterior.converged.any())
    assert posterior.sweeps == 2
    assert "3 of 3 images had not converged after 2 sweeps; raise max_sweeps" in posterior.advice


def test_mean_field_converges_image_by_image() -> None:
    """An image has converged where its last sweep moved no marginal by more than the tolerance."""
    potentials = make_potentials(20, 6, unary=3.0, pairwise=3.0)
    posterior = MeanField(max_sweeps=6, tolerance=1e-4)(potentials)
    before = MeanField(max_sweeps=5, tolerance=1e-4)(potentials)
    moved = (posterior.marginals - before.marginals).abs().amax(-1)
    assert posterior.converged.unique().tolist() == [False, True]
    assert torch.equal(posterior.converged, moved <= 1e-4)


@pytest.mark.parametrize("size", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("num_unknown", [6, 3])
def test_mean_field_is_never_above_log_partition(size: float, num_unknown: int) -> None:
    """After every sweep the bound is below log Z, has not fallen, and is off where it must be."""
    potentials = make_potentials(10, 6, unary=3.0, pairwise=size)
    known = draw_known(potentials, num_unknown=num_unknown)
    log_z = EXACT(potentials, known=known).log_partition
    last = torch.full_like(log_z, -math.inf)
    for sweeps in range(8):
        posterior = MeanField(max_sweeps=sweeps, tolerance=0.0)(potentials, known=known)
        assert posterior.log_partition_kind is LogPartitionKind.LOWER
        bound = posterior.log_partition
        assert bool((bound <= log_z + 1e-9).all())
        assert bool((bound >= last - 1e-9).all())
        last = bound
    assert bool(((log_z - last) > 1e-4).any())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("num_unknown", [5, 3, 1, 0])
@methods(EXACT, GIBBS)
def test_clamping_equals_conditioning(
    method: InferenceMethod, num_unknown: int, varies: bool
) -> None:
    """With known labels beliefs and log Z are those of the states that agree, score included."""
    potentials = make_potentials(4, 5, unary=2.0, varies=varies)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), method(potentials, known=known)
    wanted = expected(truth, "marginals", potentials.unary)
    close(posterior.marginals, wanted, spread(method, posterior))
    tolerance = 0.1 if method is GIBBS and num_unknown > 1 else 1e-10
    close(posterior.log_partition, expected(truth, "log_partition", wanted), tolerance)
    if posterior.pairwise_marginals is not None:
        pairs = [one.pairwise_marginals(potentials.edges.tolist()) for one in truth]
        close(posterior.pairwise_marginals, wanted.new_tensor(pairs), 1e-10)
    if posterior.samples is not None:
        assert bool(((posterior.samples == known) | (known == -1)).all())


@pytest.mark.parametrize("num_unknown", [1, 0])
@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_all_but_one_clamped_is_exact(method: InferenceMethod, num_unknown: int) -> None:
    """With at most one label unknown every method is exact, at any coupling."""
    size = 0.0 if method is INDEPENDENT else 5.0
    potentials = make_potentials(6, 5, pairwise=size)
    known = draw_known(potentials, num_unknown=num_unknown)
    truth, posterior = oracles(potentials, known), method(potentials, known=known)
    close(posterior.marginals, expected(truth, "marginals", potentials.unary), 1e-12)
    log_z = expected(truth, "log_partition", potentials.unary)
    close(posterior.log_partition, log_z, 1e-12)
    best = method.map_states(potentials, known=known)
    assert bool(((best == known) | (known == -1)).all())
    close(potentials.log_score(best), expected(truth, "best_score", log_z), 1e-12)


def test_both_values_of_a_label_make_up_log_partition() -> None:
    """Log Z is the log-sum of those with a label clamped to present and to absent."""
    potentials = make_potentials(3, 5, pairwise=3.0)
    free = torch.full((3, 5), -1)
    parts = []
    for value in (0, 1):
        known = free.clone()
        known[:, 2] = value
        parts.append(EXACT(potentials, known=known).log_partition)
    close(torch.logaddexp(*parts), EXACT(potentials).log_partition, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 30.0])
@methods(EXACT, MEAN_FIELD, GIBBS, INDEPENDENT)
def test_finite_at_large_unaries(method: InferenceMethod, size: float, dtype: torch.dtype) -> None:
    """Unaries of 50 either way give finite beliefs between 0 and 1, of the type that came in."""
    if method is INDEPENDENT:
        size = 0.0
    made = make_potentials(8, 5, pairwise=size, dtype=dtype)
    potentials = Potentials(50 * made.unary.sign(), made.edges, made.pairwise)
    posterior = method(potentials)
    assert posterior.marginals.dtype == posterior.log_partition.dtype == dtype
    assert bool(((posterior.marginals >= 0) & (posterior.marginals <= 1)).all())
    assert bool(posterior.log_partition.isfinite().all())
    if not size:
        close(posterior.marginals, (potentials.unary > 0).to(dtype), 1e-7)


@pytest.mark.parametrize("known_share", [False, True])
@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@methods(EXACT, MEAN_FIELD, GIBBS)
def test_map_states(method: InferenceMethod, size: float, known_share: bool) -> None:
    """Exact finds the oracle's score; the others never exceed it and stop where no flip helps."""
    potentials = make_potentials(8, 6, unary=3.0, pairwise=size)
    known = draw_known(potentials, num_unknown=4 if known_share else 6)
    states = method.map_states(potentials, known=known)
    assert states.dtype == torch.int64
    assert bool(((states == known) | (known == -1)).all())
    score = potentials.log_score(states)
    best = expected(oracles(potentials, known), "best_score", score)
    assert bool((score <= best + 1e-9).all())
    if method is EXACT:
        close(score, best, 1e-9)
    for label in range(6):
        turned = states.clone()
        turned[:, label] = torch.where(known[:, label] == -1, 1 - turned[:, label], known[:, label])
        assert bool((potentials.log_score(turned) <= score + 1e-9).all())
