"""The next question: mutual information against plain enumeration, by every method."""

from itertools import product
from math import exp, fsum, log

import pytest
import torch

from mlcrf.crf import Potentials
from mlcrf.inference import (
    Exact,
    Gibbs,
    InferenceMethod,
    JunctionTree,
    MeanField,
    PreparedExact,
    questions,
)
from mlcrf.inference.questions import (
    answer_information,
    label_entropy,
    mutual_information,
    next_questions,
    pair_marginals,
)
from tests.making import make_potentials

KNOWN = torch.tensor([[-1, -1, -1, -1, -1], [-1, 1, -1, -1, 0], [1, -1, 0, -1, -1]])


def enumerated_information(potentials: Potentials, known: torch.Tensor) -> list[list[float]]:
    """sum_j I(y_i; y_j | known), from the table of all label sets."""
    rows = []
    for image in range(potentials.num_images):
        weights = {}
        for state in product((0, 1), repeat=potentials.num_labels):
            if all(k in (-1, y) for k, y in zip(known[image].tolist(), state, strict=True)):
                score = potentials.rows(slice(image, image + 1)).log_score(torch.tensor([state]))
                weights[state] = exp(float(score))
        total = fsum(weights.values())

        def probability(*wanted: tuple[int, int], table: dict = weights, z: float = total) -> float:
            return fsum(w for y, w in table.items() if all(y[i] == v for i, v in wanted)) / z

        row = []
        for i in range(potentials.num_labels):
            terms = []
            for j, a, b in product(range(potentials.num_labels), (0, 1), (0, 1)):
                joint = probability((i, a), (j, b))
                if joint > 0:
                    apart = probability((i, a)) * probability((j, b))
                    terms.append(joint * log(joint / apart))
            row.append(fsum(terms))
        rows.append(row)
    return rows


def methods(potentials: Potentials) -> list[InferenceMethod]:
    return [Exact(), PreparedExact(Exact(), potentials)]


@pytest.mark.parametrize("which", [0, 1])
def test_information_equals_brute_force(which: int) -> None:
    """With and without known labels, by clamping and from the halves."""
    potentials = make_potentials(pairwise=2.0)
    pairs = pair_marginals(methods(potentials)[which], potentials, known=KNOWN)
    assert torch.equal(pairs, pairs.mT)
    found = answer_information(pairs)
    wanted = torch.tensor(enumerated_information(potentials, KNOWN), dtype=torch.float64)
    # half-states of 1e-3 may be left out by the second
    assert torch.allclose(found, wanted, atol=(1e-9, 2e-2)[which])
    assert bool((found[KNOWN != -1] < 1e-9).all())


@pytest.mark.parametrize("method", [Gibbs(sweeps=400), JunctionTree()])
def test_pairs_that_are_counted_in_samples(
    method: InferenceMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As enumerated, within what samples allow; what is within their noise counts as nothing."""
    monkeypatch.setattr(questions, "_MANY", 0)
    potentials = make_potentials(pairwise=2.0, dtype=torch.float32)
    found = answer_information(pair_marginals(method, potentials, known=KNOWN))
    wanted = torch.tensor(enumerated_information(potentials, KNOWN), dtype=torch.float64)
    assert torch.allclose(found, wanted, atol=0.1)
    free = make_potentials(pairwise=0.0, dtype=torch.float32)
    pairs = pair_marginals(method, free)
    entropy = label_entropy(pairs.diagonal(dim1=-2, dim2=-1))
    assert torch.allclose(answer_information(pairs), entropy, atol=0.02)


def test_without_couplings_only_the_entropy_is_left() -> None:
    """Nothing is learned of other labels, and the likeliest coin flip is asked."""
    potentials = make_potentials(pairwise=0.0)
    pairs = pair_marginals(Exact(), potentials)
    p = Exact()(potentials).marginals
    assert torch.allclose(answer_information(pairs), label_entropy(p), atol=1e-9)
    assert torch.equal(answer_information(pairs).argmax(1), (p - 0.5).abs().argmin(1))


def test_information_at_its_limits() -> None:
    """Two labels that are one coin tell each other all; certain ones tell nothing; none below 0."""
    twins = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.0]]])
    found = mutual_information(twins)
    assert torch.allclose(found[0], torch.full((2, 2), log(2), dtype=torch.float64))
    assert torch.equal(found[1], torch.zeros(2, 2, dtype=torch.float64))
    rounded = torch.tensor([[[1e-9, 2e-9], [2e-9, 1.0]]])  # a pair above its marginal
    assert bool(torch.isfinite(mutual_information(rounded)).all())


def test_an_answer_that_settles_others_is_asked_first() -> None:
    """Three labels that go together before one that is as uncertain alone."""
    edges = torch.tensor([[1, 2], [1, 3], [2, 3]])
    unary = torch.tensor([[0.0, -3.0, -3.0, -3.0]], dtype=torch.float64)
    potentials = Potentials(unary, edges, torch.full((3,), 3.0, dtype=torch.float64))
    information = answer_information(pair_marginals(Exact(), potentials))
    entropy = label_entropy(Exact()(potentials).marginals)
    assert int(entropy.argmax()) == 0
    assert int(information.argmax()) in (1, 2, 3)
    assert float(information[0, 0]) == pytest.approx(log(2))


def test_what_may_not_be_asked() -> None:
    """Labels that were answered are passed over; a photo without a question has -1."""
    information = torch.tensor([[0.9, 0.1], [0.5, 0.6], [0.2, 0.3], [0.5, 0.6]])
    askable = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    assert next_questions(information, askable).tolist() == [0, 0, -1, 1]


def test_methods_without_pairs_are_clamped() -> None:
    """Mean field, whose pairs are not symmetric of themselves, gives information too."""
    potentials = make_potentials(dtype=torch.float32)
    pairs = pair_marginals(MeanField(), potentials, known=KNOWN)
    exact = answer_information(pair_marginals(Exact(), potentials, known=KNOWN))
    assert torch.allclose(answer_information(pairs), exact, atol=0.05)
