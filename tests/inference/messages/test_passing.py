"""TAP and belief propagation: free energies, duals, memory."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import SettingsError
from mlcrf.inference import InferenceMethod, Posterior
from mlcrf.inference.bethe import Bethe
from mlcrf.inference.convex_bp import (
    ConvexBeliefPropagation,
    dual_value,
    start_messages,
    update,
)
from mlcrf.inference.messages.passing import softplus
from mlcrf.inference.tap import Tap
from mlcrf.inference.tree_reweighted import TreeReweighted
from tests.inference import equations
from tests.inference.methods import enumerated, make
from tests.making import close, draw_known, make_potentials

FINE = {"max_sweeps": 1500, "tolerance": 1e-12}
TAP = Tap(**FINE)
BETHE = Bethe(**FINE)
TREES = TreeReweighted(**FINE)
CONVEX = ConvexBeliefPropagation(**FINE)
MESSAGES = (BETHE, TREES, CONVEX)
ALL = (TAP, *MESSAGES)
USUAL = (Tap(), Bethe(), TreeReweighted(), ConvexBeliefPropagation())
COUNTS = {
    "bethe": equations.bethe_counts,
    "tree-reweighted": equations.tree_counts,
    "convex-bp": equations.convex_counts,
}


def methods(*chosen: InferenceMethod) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", chosen, ids=[one.name for one in chosen])


def pairs_of(posterior: Posterior) -> Tensor:
    assert posterior.pairwise_marginals is not None
    return posterior.pairwise_marginals


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1


def test_softplus_is_right_to_the_last_digit() -> None:
    """From x = 20, where torch's own is x, log (1 + exp(-x)) still counts."""
    x = torch.tensor([-800.0, -30.0, 0.0, 15.0, 21.0, 25.0, 800.0], dtype=torch.float64)
    wanted = [max(v, 0.0) + math.log1p(math.exp(-abs(v))) for v in x.tolist()]
    close(softplus(x), x.new_tensor(wanted), 1e-15 * (1 + x.abs()))


@pytest.mark.parametrize("size", [0.7, 1.5])
@methods(*MESSAGES)
def test_log_partition_is_the_free_energy_of_the_beliefs(
    method: InferenceMethod, size: float
) -> None:
    """At convergence the dual meets the primal: score plus entropies with the counting numbers."""
    for potentials in (make_potentials(3, 5, pairwise=size), make("sparse", 4, pairwise=size)):
        posterior = method(potentials)
        assert bool(posterior.converged.all())
        numbers = COUNTS[method.name](potentials)
        wanted = torch.tensor(
            list(equations.free_energies(potentials, posterior, *numbers))
        ).double()
        close(posterior.log_partition, wanted, 1e-6)


def test_tap_is_right_to_second_order() -> None:
    """Halving the couplings divides the error of log Z by eight: what is left out is cubic."""
    made = make_potentials(6, 6, unary=1.0, pairwise=0.1)

    def error(scale: float) -> float:
        potentials = Potentials(made.unary, made.edges, scale * made.pairwise)
        return float(
            (TAP(potentials).log_partition - enumerated(potentials).log_partition).abs().max()
        )

    assert error(1.0) / error(0.5) == pytest.approx(8, rel=0.1)


def test_tap_does_not_trust_what_it_settles_on_beyond_its_reach() -> None:
    """Much damping makes it settle where the expansion fails; it does not say converged."""
    made = make_potentials(12, 10, pairwise=10.0)
    posterior = Tap(max_sweeps=3000, damping=0.98)(made)
    settled = Tap(max_sweeps=2999, damping=0.98)(made)
    still = (posterior.marginals - settled.marginals).abs().amax(-1) < 1e-6
    assert int(still.sum()) >= 5
    truth = enumerated(made).marginals
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


def test_convex_dual_bounds_at_any_messages() -> None:
    """The dual is above log Z for fields drawn at random, and convex along lines between them."""
    potentials = make_potentials(10, 5, unary=2.0, pairwise=2.0)
    known = draw_known(potentials, num_unknown=4)
    log_z = enumerated(potentials, known).log_partition
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
    for potentials in (make_potentials(6, 8, pairwise=size), make("sparse", 4, pairwise=size)):
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
    assert Bethe(damping=0).damping == 0, "none is allowed"


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation returned; of a sparse matrix those it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor):
                numbers = one._nnz() if one.is_sparse else one.numel()
                self.numbers = max(self.numbers, numbers)
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
