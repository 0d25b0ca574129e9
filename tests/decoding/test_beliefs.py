"""Count marginals and samples come from the best means that an inference method has."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlcrf.choices import Decision
from mlcrf.decoding import CountsLabels, Decoder, DrawsLabels
from mlcrf.inference import Exact, Gibbs, Independent, InferenceMethod, MeanField
from tests.decoding import brute
from tests.decoding.methods import READY, Enumeration, Sampling, decided
from tests.making import close, draw_known, make_potentials
from tests.oracle import oracles


def test_expected_f1_takes_the_best_means_there_are() -> None:
    """Count marginals first, then samples of the posterior or drawn ones, else independence."""
    potentials = make_potentials(12, 6, unary=1.5, pairwise=1.5)
    truth = oracles(potentials)
    decoder = READY[Decision.EXPECTED_F1]

    def average(states: Tensor) -> float:
        of_each = [
            brute.expectation("f1", one.probabilities, state)
            for one, state in zip(truth, states, strict=True)
        ]
        return sum(of_each) / len(of_each)

    exact = average(decided(decoder, potentials))
    assert isinstance(Enumeration(), CountsLabels)
    sampling, gibbs, mean_field = Sampling(), Gibbs(), MeanField()
    assert isinstance(sampling, DrawsLabels)
    assert exact >= average(decided(decoder, potentials, sampling)) > exact - 0.005
    assert exact >= average(decided(decoder, potentials, gibbs)) > exact - 0.005
    assert not isinstance(mean_field, CountsLabels | DrawsLabels)
    assert exact >= average(decided(decoder, potentials, mean_field)) > exact - 0.1


@pytest.mark.parametrize("inference", [Sampling(), MeanField()])
@pytest.mark.parametrize("rule", [Decision.EXPECTED_F1, Decision.EXPECTED_JACCARD])
def test_samples_of_the_posterior_are_used(rule: Decision, inference: InferenceMethod) -> None:
    """Where the posterior has samples they decide, whatever the inference could draw."""
    potentials = make_potentials(1, 3, unary=4.0)
    posterior = inference(potentials)
    wanted = 1 - Decoder(rule)(posterior, potentials, inference)
    given = replace(posterior, samples=wanted.expand(5, 1, 3).to(torch.uint8))
    assert torch.equal(Decoder(rule)(given, potentials, inference), wanted)


def test_independent_labels_are_exact() -> None:
    """Without couplings expected F1 is exact by the Poisson binomial, and Jaccard nearly."""
    potentials = make_potentials(6, 6, unary=2.0, pairwise=0.0)
    f1 = decided(Decoder(Decision.EXPECTED_F1), potentials, Independent())
    jaccard = decided(
        Decoder(Decision.EXPECTED_JACCARD, num_samples=3000), potentials, Independent()
    )
    every = brute.every_state(6)
    for image, one in enumerate(oracles(potentials)):
        best = brute.best_expectation("f1", one.probabilities, every)
        own = brute.expectation("f1", one.probabilities, f1[image])
        assert own == pytest.approx(best, abs=1e-9)
        best = brute.best_expectation("jaccard", one.probabilities, every)
        assert brute.expectation("jaccard", one.probabilities, jaccard[image]) > best - 0.01


@pytest.mark.parametrize("inference", [Enumeration(), Sampling(), Gibbs(), Independent()])
@pytest.mark.parametrize("measure", ["f1", "jaccard"])
def test_images_in_parts(
    measure: str, inference: InferenceMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory allows one image at a time, each still gets its own beliefs."""
    size = 0.0 if isinstance(inference, Independent) else 1.0
    potentials = make_potentials(4, 5, unary=3.0, pairwise=size, varies=True)
    known = draw_known(potentials, num_unknown=4)
    monkeypatch.setattr("mlcrf.decoding.beliefs._ENTRIES", 1)
    decoder = Decoder(Decision(f"expected-{measure}"))
    states = decided(decoder, potentials, inference, known)
    # labels that are coupled are drawn one by one where the inference draws nothing
    loss = 0.1 if isinstance(inference, Enumeration) and measure == "jaccard" else 0.02
    for image, one in enumerate(oracles(potentials, known)):
        agree = brute.admissible_states(known[image].tolist(), potentials.rules)
        best = brute.best_expectation(measure, one.probabilities, agree)
        assert brute.expectation(measure, one.probabilities, states[image]) > best - loss


def test_same_seed_same_bits() -> None:
    """Draws depend on the seed alone, and the global generator is left as it was."""
    potentials = make_potentials(40, 6)
    before = torch.get_rng_state()
    few = Decoder(Decision.EXPECTED_JACCARD, num_samples=10)
    for inference in (Sampling(), Enumeration()):
        first = decided(few, potentials, inference)
        assert torch.equal(first, decided(few, potentials, inference))
        assert not torch.equal(first, decided(replace(few, seed=1), potentials, inference))
    assert torch.equal(before, torch.get_rng_state())


def test_draws_label_by_label_keep_what_is_known() -> None:
    """Nothing that is known is turned where labels are drawn one by one."""
    potentials = make_potentials(5, 6, pairwise=0.0)
    known = draw_known(potentials, num_unknown=2)
    posterior = Independent()(potentials, known=known)
    states = Decoder(Decision.EXPECTED_JACCARD)(posterior, potentials, Independent(), known=known)
    close(states[known >= 0], known[known >= 0], 0)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("rule", Decision)
def test_exact_inference_decides_as_the_oracle_does(rule: Decision, clamp: bool) -> None:
    """The shipped exact method counts and draws, and is as good under every rule."""
    potentials = make_potentials(6, 6, unary=1.5, pairwise=1.5)
    known = draw_known(potentials, num_unknown=4 if clamp else 6)
    assert isinstance(Exact(), CountsLabels)
    assert isinstance(Exact(), DrawsLabels)
    ours = decided(READY[rule], potentials, Exact(), known)
    if rule is not Decision.EXPECTED_JACCARD:
        assert torch.equal(ours, decided(READY[rule], potentials, known=known))
        return
    for state, one in zip(ours, oracles(potentials, known), strict=True):
        best = brute.best_expectation("jaccard", one.probabilities, list(one.probabilities))
        assert brute.expectation("jaccard", one.probabilities, state) > best - 0.05
