"""Factors of potentials: found where labels were drawn with them, kept only where they help."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, Independent, InferenceMethod, MeanField
from mlcrf.model import LabelCrf, no_edges
from mlcrf.tempering import Factors, choose_factors
from tests.making import make_potentials

TRUE = Factors(0.6, 1.5)


def draw(potentials: Potentials, factors: Factors, *, seed: int = 0) -> Tensor:
    """One label vector of every image, from the CRF with these factors (N, L)."""
    scaled = potentials.scaled(factors.unary, factors.pairwise)
    generator = torch.Generator().manual_seed(1000 + seed)  # not that of the potentials
    return Exact().sample(scaled, 1, generator)[0].long()


@pytest.fixture(scope="module")
def potentials() -> Potentials:
    return make_potentials(2000, 4, unary=2.5, pairwise=1.5)


@pytest.mark.parametrize("method", [Exact(), MeanField()], ids=["likelihood", "pseudo-likelihood"])
def test_finds_the_factors_that_labels_were_drawn_with(
    potentials: Potentials, method: InferenceMethod
) -> None:
    """By the joint likelihood and by the pseudo-likelihood."""
    found = choose_factors(potentials, draw(potentials, TRUE), method)
    assert found.joint == isinstance(method, Exact)
    assert found.is_kept and found.factors == found.found
    assert found.found.unary == pytest.approx(TRUE.unary, abs=0.05)
    assert found.found.pairwise == pytest.approx(TRUE.pairwise, abs=0.2)


def test_expected_scores_are_the_observed_ones(potentials: Potentials) -> None:
    """At the optimum both parts of the score have their observed mean: the gradient is zero."""
    targets = draw(potentials, TRUE)
    found = choose_factors(potentials, targets, Exact()).found
    scaled = potentials.scaled(found.unary, found.pairwise)
    posterior = Exact(pairwise_marginals=True)(scaled)
    assert posterior.pairwise_marginals is not None
    y = targets.double()
    together = y[:, potentials.edges[:, 0]] * y[:, potentials.edges[:, 1]]
    for weights, said, was in (
        (potentials.unary, posterior.marginals, y),
        (potentials.pairwise, posterior.pairwise_marginals, together),
    ):
        gap = (weights * (said - was)).sum(1).mean()
        assert abs(float(gap)) < 1e-3


def test_right_potentials_are_left_alone(potentials: Potentials) -> None:
    """Labels drawn from the model itself seldom ask for factors, and for ones near 1."""
    kept = 0
    for seed in range(4):
        found = choose_factors(potentials, draw(potentials, Factors(), seed=seed), Exact())
        assert found.found.unary == pytest.approx(1, abs=0.07)
        assert found.found.pairwise == pytest.approx(1, abs=0.2)
        assert found.is_kept or found.factors == Factors()
        kept += found.is_kept
    assert kept <= 1


def test_whole_sets_do_not_pay_with_single_labels() -> None:
    """Couplings that are too weak beside right marginals are not made stronger."""
    edges = torch.tensor([[0, 1]])
    # of the labels that are not coupled, unaries are right, so that they keep a factor near 1
    unary = 3 * make_potentials(2000, 8, pairwise=0).unary
    unary[:, :2] = unary[:, :2] / 3 - 1.5
    true = Potentials(unary, edges, torch.tensor([3.0], dtype=torch.float64))
    targets = draw(true, Factors())
    model = Potentials(Exact()(true).marginals.logit(), edges, 0.1 * true.pairwise)
    found = choose_factors(model, targets, Exact())
    gain, error = found.gain
    single, doubt = found.single_gain
    assert gain > 3 * error and single < -3 * doubt
    assert not found.is_kept and found.factors == Factors()


def test_the_baseline_has_one_factor() -> None:
    unary = make_potentials(2000, 4, unary=3, pairwise=0)
    found = choose_factors(unary, draw(unary, TRUE), Independent())
    assert found.is_kept
    assert found.found.unary == pytest.approx(TRUE.unary, abs=0.05)
    assert found.found.pairwise == 1


def test_unknown_labels_are_summed_out(potentials: Potentials) -> None:
    """A third of them hidden, and images of which nothing is known change nothing."""
    targets = draw(potentials, TRUE)
    hidden = torch.rand(targets.shape, generator=torch.Generator().manual_seed(5)) < 1 / 3
    some = targets.masked_fill(hidden, -1)
    found = choose_factors(potentials, some, Exact())
    assert found.found.unary == pytest.approx(TRUE.unary, abs=0.08)
    assert found.found.pairwise == pytest.approx(TRUE.pairwise, abs=0.3)
    more = replace(potentials, unary=torch.cat([potentials.unary[:1000], potentials.unary[:500]]))
    more_targets = torch.cat([some[:1000], torch.full_like(some[:500], -1)])
    alone = choose_factors(potentials.rows(slice(0, 1000)), some[:1000], Exact())
    both = choose_factors(more, more_targets, Exact())
    known = int((some[:1000] >= 0).any(1).sum())
    assert alone.images == both.images == known
    assert both.found.unary == pytest.approx(alone.found.unary, abs=1e-3)


def test_few_images_choose_nothing(potentials: Potentials) -> None:
    few = potentials.rows(slice(0, 99))
    found = choose_factors(few, draw(few, TRUE), Exact())
    assert not found.is_kept and found.factors == Factors()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_are_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.05"):
        Factors(1.0, bad)


@pytest.mark.parametrize(
    "settings", [{}, {"hidden": 3}, {"rank": 2}, {"scenes": 2}, {"edges": no_edges()}]
)
def test_a_scaled_model_has_scaled_potentials(settings: dict[str, object]) -> None:
    """Whatever the potentials are functions of; the model itself stays."""
    model = LabelCrf(4, 3, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    features = torch.randn(6, 4, generator=generator)
    wanted = model(features).scaled(0.7, 1.3)
    scaled = model.scaled(0.7, 1.3)(features)
    assert type(scaled) is type(wanted)
    for name, value in vars(wanted).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(getattr(scaled, name), value)
    assert not torch.allclose(model(features).unary, scaled.unary)
