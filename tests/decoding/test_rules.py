"""No decision breaks a hard rule, and the best sets under rules are those of plain enumeration."""

import itertools

import pytest
import torch

from mlcrf.choices import Decision
from mlcrf.crf import check_known
from mlcrf.decoding import Decoder
from mlcrf.decoding.admissible import Admissible
from mlcrf.decoding.counts import empty_probability
from mlcrf.decoding.expected_f1 import maximise_expected_f1
from mlcrf.inference import Exact, Gibbs, MeanField
from mlcrf.inference.posterior import InferenceMethod
from tests.decoding import brute
from tests.drawn_rules import allowed_scores, make

METHODS = [Exact(), MeanField(), Gibbs(chains=4, burn_in=2, sweeps=4)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("seed", range(4))
def test_no_decision_breaks_a_rule(seed: int, method: InferenceMethod) -> None:
    """Whatever the rule of decision, its limits, and the inference."""
    potentials, known = make(seed, 7)
    posterior = method(potentials, known=known)
    for rule in Decision:
        decoder = Decoder(rule, **({"k": 3} if rule.has_k else {}), num_samples=50)
        if rule in (Decision.TUNED_THRESHOLD, Decision.LABEL_THRESHOLDS):
            targets = torch.randint(0, 2, known.shape, generator=torch.Generator().manual_seed(0))
            decoder = decoder.tune(posterior.marginals, targets)
        chosen = decoder(posterior, potentials, method, known=known)
        assert potentials.rules.obeyed_by(chosen.numpy()).all(), rule
        assert ((known < 0) | (chosen == known)).all(), rule


@pytest.mark.parametrize("limits", [(0, 7), (2, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_best_sets(seed: int, limits: tuple[int, int]) -> None:
    """Highest sum of scores at each size, and highest expected F1, of the sets under rules."""
    potentials, known = make(seed, 7)
    potentials, known = potentials.rows(slice(2)), check_known(potentials, known)[:2]
    allowed = Admissible(known, potentials.rules, *limits)
    scores = potentials.unary
    every = torch.tensor(list(itertools.product((0, 1), repeat=7)))
    fine = torch.from_numpy(potentials.rules.obeyed_by(every.numpy()))
    for image in range(2):
        agrees = fine & ((known[image] < 0) | (every == known[image])).all(1)
        for size in range(8):
            of_size = every[agrees & (every.sum(1) == size)]
            found = allowed.best_of_size(scores, size)
            assert found is not None
            sums = [float(y @ scores[image]) for y in of_size.double()]
            assert float(found.value[image]) == pytest.approx(max(sums, default=-torch.inf))
    sets, log_scores = allowed_scores(potentials, known)
    p = log_scores.softmax(1)
    counts = torch.einsum(
        "ns,sl,sc->nlc", p, sets, torch.nn.functional.one_hot(sets.sum(1).long(), 8).double()
    )
    chosen, value = maximise_expected_f1(counts, empty_probability(counts), allowed)
    for image in range(2):
        probabilities = {
            tuple(map(int, y)): q for y, q in zip(sets.tolist(), p[image].tolist(), strict=True)
        }
        among = [y for y, q in probabilities.items() if q > 0 and limits[0] <= sum(y) <= limits[1]]
        if among:
            best = brute.best_expectation("f1", probabilities, among)
            assert float(value[image]) == pytest.approx(best)
            assert brute.expectation("f1", probabilities, chosen[image]) == pytest.approx(best)
