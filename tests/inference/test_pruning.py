"""What is left out of the sum: bounded, below the tolerance, and really left out."""

import dataclasses

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, entropy, exact, pruning
from mlcrf.inference.pruning import Pruner, Reference
from mlcrf.inference.split import Split
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
    """Prune models of 12 labels as others are from 18 on."""
    monkeypatch.setattr(exact, "_LEAST_STATES", 2**12)
    monkeypatch.setattr(pruning, "_LEAST_TILE", 4)
    monkeypatch.setattr(pruning, "_GROUP", 16)
    monkeypatch.setattr(pruning, "_DENSE", 0.99)


def make_pruner(potentials: Potentials) -> tuple[Split, Tensor, Tensor, Pruner]:
    halves = Split(potentials.pairwise_matrix())
    known = torch.full(potentials.unary.shape, -1)
    halves.prune(potentials.unary[::7], known[::7], 1e-3)
    scores = halves.scores(potentials.unary, known)
    alpha, beta = (
        half.weights(scores.unary, scores.known, torch.float32)[0]
        for half in (halves.half_a, halves.half_b)
    )
    assert halves._pruner is not None
    return halves, alpha, beta, halves._pruner


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold(seed: int) -> None:
    """No tile of any image has more mass than its bound, and most bounds are within ten times."""
    halves, alpha, beta, pruner = make_pruner(make_photos(seed=seed))
    kernel = halves.kernel.block(slice(0, 64), torch.float64)
    joint = alpha.double()[:, :, None] * kernel * beta.double()[:, None]
    mass = joint.view(-1, 16, 4, 16, 4).sum((2, 4))
    bounds = pruner._bounds(alpha, beta).double()
    assert bool((bounds * 1.001 >= mass).all())
    assert float((bounds < 10 * mass).double().mean()) > 0.5


def test_bound_is_tight_for_the_reference() -> None:
    """For the very image that the reference is made of, the bound is the mass."""
    one = make_photos(num_images=1)
    halves = Split(one.pairwise_matrix())
    scores = halves.scores(one.unary, torch.full((1, 12), -1))
    alpha, beta = (
        half.weights(scores.unary, scores.known, torch.float32)[0]
        for half in (halves.half_a, halves.half_b)
    )
    bounds = Pruner(halves.kernel, Reference.of(alpha, beta), 0.1)._bounds(alpha, beta)
    kernel = halves.kernel.block(slice(0, 64), torch.float64)
    total = alpha.double() @ kernel @ beta.double().T
    close(bounds.double().sum((1, 2)), total[0], 1e-5 * float(total))


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
    """Much of the kernel is not multiplied, more at a wider tolerance, none without one."""
    _, alpha, beta, pruner = make_pruner(make_photos())
    wide = pruner.plan(alpha, beta)
    pruner._tolerance = 1e-6
    fine = pruner.plan(alpha, beta)
    assert wide.share < fine.share < 0.6
    assert wide.order is not None
    assert sorted(wide.order.tolist()) == list(range(300))


@pytest.mark.usefixtures("small")
def test_gradient_with_parts_left_out() -> None:
    """The batch's gradient is that of the full sum, within the bound of each image."""
    photos = make_photos()
    slopes = []
    for method in (Exact(leave_out=1e-4), DENSE):
        pairwise = photos.pairwise.clone().requires_grad_()
        unary = photos.unary.clone().requires_grad_()
        log_z = method(Potentials(unary, photos.edges, pairwise)).log_partition
        slopes.append(torch.autograd.grad(log_z.mean(), (unary, pairwise)))
    close(slopes[0][0] * 300, slopes[1][0] * 300, 1.1e-4)
    close(slopes[0][1], slopes[1][1], 1.1e-4)


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


@pytest.mark.parametrize("num_known", [0, 2])
def test_entropy(num_known: int) -> None:
    """Entropy is -sum p log p over the states that agree."""
    potentials = make_potentials(4, 6, unary=2.0, pairwise=2.0)
    known = draw_known(potentials, num_unknown=6 - num_known)
    posterior = Exact(pairwise_marginals=True)(potentials, known=known)
    wanted = [
        -sum(p * torch.tensor(p).log().item() for p in one.probabilities.values() if p)
        for one in oracles(potentials, known)
    ]
    close(entropy(potentials, posterior), posterior.log_partition.new_tensor(wanted), 1e-5)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize(
    "implications", [[[0, 1]], [[3, 0], [4, 0]], [[1, 2], [2, 5]], [[0, 5], [1, 5], [2, 5]]]
)
def test_implications(implications: list[list[int]], varies: bool) -> None:
    """States that break an implication have no mass; all else is as among the others alone."""
    made = make_potentials(3, 6, unary=2.0, pairwise=2.0, varies=varies)
    rules = torch.tensor(implications)
    potentials = Potentials(made.unary, made.edges, made.pairwise, rules)
    method = Exact(pairwise_marginals=True)
    posterior, best = method(potentials), method.map_states(potentials)
    samples = method.sample(potentials, 50, torch.Generator().manual_seed(0))
    for states in (best, samples):
        assert bool((states[..., rules[:, 0]] <= states[..., rules[:, 1]]).all())
    truth = oracles(potentials.as_couplings())
    close(posterior.marginals, expected(truth, "marginals", made.unary), 1e-10)
    close(posterior.log_partition, expected(truth, "log_partition", made.unary), 1e-10)
    close(made.log_score(best), expected(truth, "best_score", made.unary), 1e-10)
    pairs = [one.pairwise_marginals(made.edges.tolist()) for one in truth]
    assert posterior.pairwise_marginals is not None
    close(posterior.pairwise_marginals, made.unary.new_tensor(pairs), 1e-10)


def test_implications_bring_more_labels_within_reach() -> None:
    """Thirty labels in chains of three are 4^10 states, and are counted as that."""
    chains = [[3 * at + step, 3 * at + step + 1] for at in range(10) for step in range(2)]
    made = make_potentials(2, 30, pairwise=0.0)
    potentials = Potentials(made.unary, made.edges, made.pairwise, torch.tensor(chains))
    posterior = Exact(max_labels=20)(potentials)
    log_z = torch.zeros(2, dtype=torch.float64)
    for at in range(10):
        u = made.unary[:, 3 * at : 3 * at + 3]  # a child implies its parent, the next label
        steps = [0 * u[:, 2], u[:, 2], u[:, 2] + u[:, 1], u.sum(1)]
        log_z += torch.stack(steps).logsumexp(0)
    close(posterior.log_partition, log_z, 1e-10)
