"""Head and couplings: potentials by hand, where they start, and states that come back."""

import math

import pytest
import torch

from mlcrf.crf import full_edges
from mlcrf.errors import LabelsError
from mlcrf.inference import Exact
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import exact_likelihood_loss, pseudo_likelihood_loss
from mlcrf.rules import Limit, Rules

NUM_FEATURES, NUM_LABELS, RANK = 6, 4, 3
RULES = Rules(((2, 0), (3, 1)))


def make_model(*, hidden: int = 0, rank: int = RANK, random: bool = True) -> LabelCrf:
    """A model with rules, of random values if asked for."""
    model = LabelCrf(NUM_FEATURES, NUM_LABELS, hidden=hidden, rank=rank, rules=RULES, seed=5)
    if random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
    return model


def draw_features(num_images: int = 7) -> torch.Tensor:
    """Features that differ from image to image."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(num_images, NUM_FEATURES, generator=generator)


@pytest.mark.parametrize("hidden", [0, 5])
def test_couplings_are_those_of_the_formula(hidden: int) -> None:
    """J + sum_r tanh(g_r(x)) B_r, image by image, edge by edge and gate by gate."""
    model, features = make_model(hidden=hidden), draw_features()
    potentials = model(features)
    assert potentials.varies_by_image
    gates, factors = model.gates, model.factors
    assert gates is not None and factors is not None
    for image, x in enumerate(features.tolist()):
        g = [
            math.tanh(bias + math.fsum(w * value for w, value in zip(row, x, strict=True)))
            for row, bias in zip(gates.weight.tolist(), gates.bias.tolist(), strict=True)
        ]
        for edge in range(len(model.edges)):
            own = math.fsum(g[r] * factors[r, edge].item() for r in range(RANK))
            wanted = model.pairwise[edge].item() + own
            assert potentials.pairwise[image, edge].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("hidden", [0, 5])
def test_starts_as_the_constant_model(hidden: int) -> None:
    """Before any step each image has the couplings J, and the same unaries as without gates."""
    constant = make_model(hidden=hidden, rank=0, random=False)
    varying = make_model(hidden=hidden, random=False)
    features = draw_features()
    for model in (constant, varying):
        torch.nn.init.normal_(model.pairwise, generator=torch.Generator().manual_seed(3))
    ours, theirs = varying(features), constant(features)
    assert not theirs.varies_by_image
    assert torch.equal(ours.pairwise, theirs.pairwise.expand(len(features), -1))
    assert torch.equal(ours.unary, theirs.unary)


@pytest.mark.parametrize("loss", [pseudo_likelihood_loss, exact_likelihood_loss])
def test_the_start_has_a_gradient(loss: object) -> None:
    """The first gradient moves every factor, and the next one the gates."""
    assert callable(loss)
    model, features = make_model(random=False), draw_features()
    targets = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 0, 1]]).repeat(3, 1)[:7]
    loss(model(features), targets).backward()
    assert model.factors is not None and model.gates is not None
    assert model.factors.grad is not None
    assert bool((model.factors.grad.abs() > 1e-6).all())
    with torch.no_grad():
        model.factors -= model.factors.grad
    model.zero_grad()
    loss(model(features), targets).backward()
    assert model.gates.weight.grad is not None
    assert bool((model.gates.weight.grad.abs() > 1e-8).all())


def test_gates_bound_the_couplings_of_odd_photos() -> None:
    """Features a thousand times as large as any move no coupling further than sum_r |B_r|."""
    model = make_model()
    assert model.factors is not None
    moved = (model(1000 * draw_features()).pairwise - model.pairwise).abs()
    assert bool((moved <= model.factors.abs().sum(0) + 1e-5).all())
    assert bool((moved.amax(0) > 0.1 * model.factors.abs().sum(0)).all())


def test_same_seed_same_start() -> None:
    """Gates come from the seed alone."""
    gates = [LabelCrf(NUM_FEATURES, 3, rank=2, seed=seed).gates for seed in (1, 1, 2)]
    weights = [gate.weight for gate in gates if gate is not None]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_implications_reach_the_potentials() -> None:
    """A child has no probability without its parent; the baseline knows of no rule."""
    potentials = make_model(rank=0)(draw_features())
    assert potentials.rules == RULES
    marginals = Exact()(potentials).marginals
    assert bool((marginals[:, RULES.array[:, 0]] <= marginals[:, RULES.array[:, 1]]).all())
    assert not len(LabelCrf(NUM_FEATURES, NUM_LABELS, edges=no_edges()).rules)


def test_limits_are_part_of_the_state() -> None:
    """With their order, and with a weight if they are soft; a state without any has no entry."""
    limits = (Limit((3, 0, 2), 0, 1), Limit((1, 4), 1, 2, 2.5))
    model = LabelCrf(2, 5, rules=Rules(((1, 0),), limits))
    other = LabelCrf(2, 5)
    other.load_state_dict(model.state_dict())
    assert other.rules == model.rules
    assert "limits" not in LabelCrf(2, 5).state_dict()


def test_implications_in_a_circle_are_refused() -> None:
    """Two labels that imply each other are no CRF."""
    state = LabelCrf(NUM_FEATURES, 2).state_dict()
    state["implications"] = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(LabelsError, match="circle"):
        LabelCrf(NUM_FEATURES, 2).load_state_dict(state)


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_clone_shares_nothing(hidden: int) -> None:
    """Every value is there, and none changes with the original."""
    model = make_model(hidden=hidden)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = model.clone()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    assert other.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert other.rank == RANK
    assert RULES.array.any()  # nor does the model share with what it was given


def test_a_state_comes_back() -> None:
    """Weights, gates, factors, edges and rules of one model in another."""
    model = make_model(hidden=5)
    other = LabelCrf(
        NUM_FEATURES,
        NUM_LABELS,
        hidden=5,
        rank=RANK,
        rules=Rules(),
        seed=9,
    )
    other.load_state_dict(model.state_dict())
    features = draw_features()
    ours, theirs = other(features), model(features)
    assert torch.equal(ours.unary, theirs.unary)
    assert torch.equal(ours.pairwise, theirs.pairwise)
    assert ours.rules == RULES


def test_a_state_is_loaded_whole() -> None:
    """With the rules, also into a part of another module; what is missing is named."""
    state = make_model(rank=0).state_dict()
    model = LabelCrf(state["output.weight"].shape[1], NUM_LABELS)
    whole = torch.nn.ModuleDict({"head": model})
    whole.load_state_dict({f"head.{key}": value for key, value in state.items()})
    assert model.rules == RULES
    assert torch.equal(model.output.weight, state["output.weight"])
    for name in ("implications", "pairwise"):
        with pytest.raises(RuntimeError, match=name):
            model.load_state_dict({key: one for key, one in state.items() if key != name})


def test_the_matrix_is_that_of_closed_gates() -> None:
    """J, symmetric with zero diagonal, whatever gates and factors are."""
    model = make_model()
    matrix = model.pairwise_matrix()
    for edge, (first, second) in enumerate(full_edges(NUM_LABELS).tolist()):
        assert matrix[first, second] == matrix[second, first] == model.pairwise[edge]
    assert not bool(matrix.diagonal().any())
