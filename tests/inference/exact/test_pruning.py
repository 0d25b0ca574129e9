"""Pruning: the terms left out are bounded, below the tolerance, and really left out."""

import dataclasses

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact
from mlcrf.inference import enumeration as exact
from mlcrf.inference.exact import pruning, split_enumeration
from mlcrf.inference.exact.pruning import Pruner, TilePlan
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.rules import Rules
from tests.making import close, draw_known, expected, make_potentials
from tests.oracle import oracles

DENSE = Exact(leave_out=0)


def make_photos(num_images: int = 300, num_labels: int = 12, seed: int = 0) -> Potentials:
    """Labels that are mostly absent, as on photos, with couplings of either sign."""
    generator = torch.Generator().manual_seed(seed)
    edges = full_edges(num_labels)
    unary = 2 * torch.randn(num_images, num_labels, generator=generator) - 6
    return Potentials(unary, edges, 0.7 * torch.randn(len(edges), generator=generator))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune models of 12 labels as others are from 22 on."""
    monkeypatch.setattr(exact, "_LEAST_STATES", 2**12)
    monkeypatch.setattr(exact, "_LEAST_IMAGES", 64)
    monkeypatch.setattr(pruning, "_TILES", 16)
    monkeypatch.setattr(pruning, "_LEAST_TILE", 4)
    monkeypatch.setattr(split_enumeration, "DENSE", 0.99)


def make_pruner(potentials: Potentials) -> tuple[Split, Tensor, Tensor, Pruner]:
    halves = Split(potentials.pairwise_matrix())
    known = torch.full(potentials.unary.shape, -1)
    halves.prune(potentials.unary[::7], known[::7], 1e-3)
    alpha, beta, _ = halves.weights(halves.scores(potentials.unary, known), torch.float32)
    assert halves._pruner is not None
    return halves, alpha, beta, halves._pruner


def tile_masses(halves: Split, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the masses of 16 x 16 tiles, (N, 16, 16)."""
    kernel = halves.kernel.block(slice(0, 64), torch.float64)
    joint = alpha.double()[:, :, None] * kernel * beta.double()[:, None]
    return joint.view(-1, 16, 4, 16, 4).sum((2, 4))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold(seed: int) -> None:
    """No tile of any image has more mass than its bound, and most bounds are within ten times."""
    halves, alpha, beta, pruner = make_pruner(make_photos(seed=seed))
    mass = tile_masses(halves, alpha, beta)
    bounds, guess = pruner.bounds(alpha, beta)
    assert bool((bounds.double() * 1.001 >= mass).all())
    assert float((bounds < 10 * mass).double().mean()) > 0.5
    of_truth = guess.double() / mass.sum((1, 2))
    assert bool((of_truth > 0.1).all() & (of_truth < 5).all())


@pytest.mark.usefixtures("small")
def test_bound_is_tight_without_couplings() -> None:
    """With a flat kernel bounds are masses and the estimate of Z is Z, up to rounding."""
    photos = make_photos()
    flat = dataclasses.replace(photos, pairwise=torch.zeros_like(photos.pairwise))
    halves, alpha, beta, pruner = make_pruner(flat)
    mass = tile_masses(halves, alpha, beta)
    bounds, guess = pruner.bounds(alpha, beta)
    close(bounds.double() / mass, torch.ones_like(mass), 2e-3)
    close(guess.double() / mass.sum((1, 2)), torch.ones(300, dtype=torch.float64), 1e-5)


@pytest.mark.usefixtures("small")
def test_half_states_are_sorted() -> None:
    """The first of sixteen parts of either half carries most of a typical photo's mass."""
    halves, alpha, beta, _ = make_pruner(make_photos())
    mass = tile_masses(halves, alpha, beta)
    share = mass / mass.sum((1, 2), keepdim=True)
    assert float(share[:, 0].sum(1).median()) > 0.5
    assert float(share[:, :, 0].sum(1).median()) > 0.5


@pytest.mark.usefixtures("small")
def test_an_estimate_that_is_too_high_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an estimate of Z a thousand times too high, no more is left out than is allowed."""
    photos = make_photos()
    monkeypatch.setattr(pruning, "_CAUTION", 1000.0)
    posterior, truth = Exact(leave_out=1e-4)(photos), DENSE(photos)
    bound = posterior.error_bound
    assert bound is not None
    assert 0 < float(bound.max()) <= 1e-4
    close(posterior.marginals, truth.marginals, bound[:, None].float() + 1e-6)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("leave_out", [1e-3, 1e-5])
@pytest.mark.parametrize("clamp", [False, True])
def test_error_is_within_its_bound(leave_out: float, clamp: bool) -> None:
    """Marginals of labels and pairs and log Z are off by no more than is said, which is not 0."""
    potentials = make_photos()
    known = draw_known(potentials, num_unknown=9) if clamp else None
    pruned = Exact(leave_out=leave_out, pairwise_marginals=True)
    posterior = pruned(potentials, known=known)
    truth = dataclasses.replace(pruned, leave_out=0)(potentials, known=known)
    bound = posterior.error_bound
    assert bound is not None
    assert truth.error_bound is not None
    assert float(truth.error_bound.max()) == 0
    assert 0 < float(bound.max()) <= leave_out
    rounding = 1e-6
    close(posterior.marginals, truth.marginals, bound[:, None].float() + rounding)
    assert posterior.pairwise_marginals is not None
    assert truth.pairwise_marginals is not None
    close(posterior.pairwise_marginals, truth.pairwise_marginals, bound[:, None].float() + rounding)
    fallen = (truth.log_partition - posterior.log_partition).double()
    assert bool((fallen <= bound * 1.01 + 5e-6).all())
    assert float(fallen.max()) > 0.01 * leave_out - 5e-6


@pytest.mark.usefixtures("small")
def test_something_is_left_out() -> None:
    """Much of the kernel is not multiplied, more at a wider tolerance."""
    _, alpha, beta, pruner = make_pruner(make_photos())
    wide = pruner.plan(alpha, beta)
    pruner.tolerance = 1e-6
    fine = pruner.plan(alpha, beta)
    assert wide.share < fine.share < 0.6


def test_nothing_is_sorted_where_little_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that are present half of the time keep most tiles, and are summed in full."""
    monkeypatch.setattr(exact, "_LEAST_STATES", 2**12)
    monkeypatch.setattr(pruning, "_LEAST_TILE", 4)
    even = make_potentials(600, 12, pairwise=0.3)
    single = Potentials(even.unary.float(), even.edges, even.pairwise.float())
    posterior = Exact()(single)
    assert posterior.error_bound is not None
    assert float(posterior.error_bound.max()) == 0
    close(posterior.marginals, DENSE(single).marginals, 1e-6)


@pytest.mark.usefixtures("small")
def test_gradient_with_parts_left_out() -> None:
    """The batch's gradient is that of the full sum, within the bound of each image."""
    photos = make_photos()
    gradients = []
    for method in (Exact(leave_out=1e-4), DENSE):
        pairwise = photos.pairwise.clone().requires_grad_()
        unary = photos.unary.clone().requires_grad_()
        log_z = method(Potentials(unary, photos.edges, pairwise)).log_partition
        gradients.append(torch.autograd.grad(log_z.mean(), (unary, pairwise)))
    close(gradients[0][0] * 300, gradients[1][0] * 300, 1.1e-4)
    close(gradients[0][1], gradients[1][1], 1.1e-4)


@pytest.mark.usefixtures("small")
def test_map_and_counts_with_parts_left_out() -> None:
    """Best states are those of the full sum; counts are within the bound."""
    photos = make_photos()
    loose = Exact(leave_out=1e-3)
    scores = photos.log_score(loose.map_states(photos))
    close(scores, photos.log_score(DENSE.map_states(photos)), 1e-4)
    counts = loose.count_marginals(photos)
    close(counts, DENSE.count_marginals(photos), 1.1e-3)
    close(counts.sum(-1), loose(photos).marginals, 1e-5)


@pytest.mark.parametrize("num_labels", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1.0, 2000.0])
def test_count_marginals(num_labels: int, size: float) -> None:
    """P(y_i = 1, |y| = s) is that of enumeration, in log space too."""
    potentials = make_potentials(3, num_labels, unary=size, pairwise=size)
    counts = DENSE.count_marginals(potentials)
    for image, one in enumerate(oracles(potentials)):
        wanted = torch.zeros(num_labels, num_labels + 1, dtype=torch.float64)
        for state, p in one.probabilities.items():
            wanted[:, sum(state)] += p * torch.tensor(state, dtype=torch.float64)
        close(counts[image], wanted, 1e-10)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize(
    "rules", [[[0, 1]], [[3, 0], [4, 0]], [[1, 2], [2, 5]], [[0, 5], [1, 5], [2, 5]]]
)
def test_implications(rules: list[list[int]], varies: bool) -> None:
    """States that break an implication have no mass; all else is as among the others alone."""
    made = make_potentials(3, 6, unary=2.0, pairwise=2.0, varies=varies)
    rules = Rules(tuple((child, parent) for child, parent in rules))
    potentials = Potentials(made.unary, made.edges, made.pairwise, rules)
    method = Exact(pairwise_marginals=True)
    posterior, best = method(potentials), method.map_states(potentials)
    samples = method.sample(potentials, 50, torch.Generator().manual_seed(0))
    for states in (best, samples):
        assert bool((states[..., rules.array[:, 0]] <= states[..., rules.array[:, 1]]).all())
    truth = oracles(potentials.as_couplings())
    close(posterior.marginals, expected(truth, "marginals", made.unary), 1e-10)
    close(posterior.log_partition, expected(truth, "log_partition", made.unary), 1e-10)
    close(made.log_score(best), expected(truth, "best_score", made.unary), 1e-10)
    pairs = [one.pairwise_marginals(made.edges.tolist()) for one in truth]
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, made.unary.new_tensor(pairs), 1e-10)


def test_implications_bring_more_labels_within_reach() -> None:
    """Thirty labels in chains of three are 4^10 states, and are counted as that."""
    chains = [(3 * at + step, 3 * at + step + 1) for at in range(10) for step in range(2)]
    made = make_potentials(2, 30, pairwise=0.0)
    potentials = Potentials(made.unary, made.edges, made.pairwise, Rules(tuple(chains)))
    posterior = Exact(max_labels=20)(potentials)
    log_z = torch.zeros(2, dtype=torch.float64)
    for at in range(10):
        u = made.unary[:, 3 * at : 3 * at + 3]  # a child implies its parent, the next label
        steps = [0 * u[:, 2], u[:, 2], u[:, 2] + u[:, 1], u.sum(1)]
        log_z += torch.stack(steps).logsumexp(0)
    close(posterior.log_partition, log_z, 1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_products_are_the_tiles_that_are_needed(seed: int) -> None:
    """Each once, and those that all images need as a few large ones."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.tensor([0.0, 0.5, 1.0])[torch.randint(3, (5, 4), generator=generator)]
    kept = torch.rand(7, 5, 4, generator=generator) < chance
    rows, columns = ([slice(3 * at, 3 * at + 3) for at in range(n)] for n in (5, 4))
    plan = TilePlan(rows, columns, kept, torch.zeros(7))
    counted = torch.zeros(7, 15, 12)
    for some_a, some_b, images in plan.products:
        counted[slice(None) if images is None else images, some_a, some_b] += 1
    wanted = kept.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal(counted, wanted.float())
    whole = sum(images is None for _, _, images in plan.products)
    assert whole <= int(kept.all(0).sum())
    everything = TilePlan(rows, columns, torch.ones_like(kept), torch.zeros(7))
    assert everything.products == [(slice(0, 15), slice(0, 12), None)]
