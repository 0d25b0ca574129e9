"""The parts of a label's log-odds: against plain enumeration, and that they add up."""

from dataclasses import replace
from itertools import product
from math import exp, fsum, log
from pathlib import Path

import pytest
import torch

from mlcrf.checkpoint import load_run
from mlcrf.crf import Potentials
from mlcrf.errors import PotentialsError
from mlcrf.inference import Exact, Gibbs, InferenceMethod, JunctionTree
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.explanation import Explanation, explain_label
from mlcrf.latent import ScenePotentials
from mlcrf.rules import Rules
from tests.making import make_potentials

LABEL = 2
KNOWN = {"nothing": [-1] * 6, "some": [1, -1, -1, 0, -1, -1], "itself": [-1, -1, 0, 1, -1, -1]}
RULES = {"none": (), "implies": ((2, 4),), "implied": ((1, 2),), "both": ((1, 2), (2, 4), (2, 5))}


def enumerated(potentials: Potentials, known: list[int]) -> tuple[list[float], float, float]:
    """The parts of the other labels by Simpson's rule, that of the rules, and the log-odds."""
    size = potentials.num_labels
    u = potentials.unary[0].tolist()
    edges = zip(potentials.edges.tolist(), potentials.pairwise.tolist(), strict=True)
    j = {frozenset(pair): value for pair, value in edges}

    def states(value: int) -> list[tuple[int, ...]]:
        return [
            y
            for y in product((0, 1), repeat=size)
            if y[LABEL] == value
            and all(k in (-1, y[i]) for i, k in enumerate(known) if i != LABEL)
            and all(y[child] <= y[parent] for child, parent in potentials.rules.pairs)
        ]

    def weight(y: tuple[int, ...], scale: float) -> float:
        terms = [u[i] for i in range(size) if y[i]]
        for pair, value in j.items():
            if all(y[i] for i in pair):
                terms.append(value * (scale if LABEL in pair else 1))
        return exp(fsum(terms))

    def mean(label: int, scale: float) -> float:
        table = {y: weight(y, scale) for y in states(1)}
        return fsum(w for y, w in table.items() if y[label]) / fsum(table.values())

    def total(value: int, scale: float) -> float:
        return log(fsum(weight(y, scale) for y in states(value)))

    steps = 20
    parts = []
    for label in range(size):
        factors = [1, *([4, 2] * (steps // 2))[:-1], 1]
        values = [f * mean(label, t / steps) for t, f in enumerate(factors)]
        coupling = 0 if label == LABEL else j[frozenset((label, LABEL))]
        parts.append(coupling * fsum(values) / (3 * steps))
    rules = total(1, 0) - u[LABEL] - total(0, 1)
    return parts, rules, total(1, 1) - total(0, 1)


def problem(rules: str) -> Potentials:
    potentials = make_potentials(1, 6, unary=2.0, pairwise=2.0)
    return replace(potentials, rules=Rules(RULES[rules]))


def parts_sum(found: Explanation) -> float:
    return found.unary + float(found.by_label.sum()) + found.rules + found.unexplained


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("told", KNOWN)
@pytest.mark.parametrize("method", [Exact(), JunctionTree()], ids=["exact", "junction-tree"])
def test_equals_brute_force(method: InferenceMethod, told: str, rules: str) -> None:
    """Every part is right, without what is known of the label itself."""
    potentials = problem(rules)
    known = torch.tensor([KNOWN[told]])
    found = explain_label(method, potentials, LABEL, known=known)
    parts, of_rules, log_odds = enumerated(potentials, KNOWN[told])
    assert found.by_label.tolist() == pytest.approx(parts, abs=1e-5)
    assert found.rules == pytest.approx(of_rules, abs=1e-9)
    assert found.log_odds == pytest.approx(log_odds, abs=1e-9)
    assert abs(found.unexplained) < 1e-6
    assert parts_sum(found) == pytest.approx(log_odds, abs=1e-9)


@pytest.mark.parametrize("rules", ["none", "both"])
def test_samples_leave_a_remainder(rules: str) -> None:
    """The parts of an approximate method add up to its own marginal, and are nearly right."""
    potentials = problem(rules)
    gibbs = Gibbs(sweeps=400)
    known = torch.tensor([KNOWN["some"]])
    found = explain_label(ExactOrGibbs(2, gibbs), potentials, LABEL, known=known, image=7)
    marginal = gibbs.draw(potentials, known=known, images=torch.tensor([7])).marginals[0, LABEL]
    assert parts_sum(found) == pytest.approx(float(marginal.double().logit()), abs=1e-4)
    exact = explain_label(Exact(), potentials, LABEL, known=known)
    assert 0 < abs(found.unexplained) < 0.1
    assert torch.allclose(found.by_label, exact.by_label, atol=0.1)
    assert found.rules == pytest.approx(exact.rules, abs=0.1)


def test_strong_couplings_get_more_nodes() -> None:
    """A label that decides many others, which eight nodes cannot integrate."""
    potentials = make_potentials(1, 8, unary=8.0, pairwise=40.0)
    found = explain_label(Exact(), potentials, LABEL)
    assert abs(found.unexplained) < 1e-4


def test_settled_by_an_implication() -> None:
    """Infinite log-odds, and the labels that settle it; a mixture over scenes is refused."""
    potentials = problem("both")
    present = explain_label(
        Exact(), potentials, LABEL, known=torch.tensor([[-1, 1, -1, -1, -1, -1]])
    )
    assert (present.log_odds, present.rules, present.settled_by) == (torch.inf, torch.inf, (1,))
    absent = explain_label(Exact(), potentials, LABEL, known=torch.tensor([[-1, -1, 1, -1, 0, -1]]))
    assert (absent.log_odds, absent.settled_by) == (-torch.inf, (4,))
    values = potentials.unary, potentials.edges, potentials.pairwise
    gates, shifts = potentials.unary[:, :2], potentials.unary
    scenes = ScenePotentials(*values, gates=gates, shifts=shifts.repeat(2, 1))
    with pytest.raises(PotentialsError, match="mixture over scenes"):
        explain_label(Exact(), scenes, LABEL)


def test_adds_up_in_a_real_model() -> None:
    """24 labels: the sum is the log-odds of the marginal, for labels likely and unlikely."""
    run = load_run(Path("mirflickr24"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        potentials = run.crf(2 * torch.rand(1, 1280, generator=generator))
    known = torch.full((1, 24), -1)
    known[0, [3, 18]] = torch.tensor([0, 1])
    double = replace(
        potentials, unary=potentials.unary.double(), pairwise=potentials.pairwise.double()
    )
    logits = run.make_inference()(double, known=known).marginals.logit()[0]
    for label in (0, 13, 23):
        found = explain_label(run.make_inference(), potentials, label, known=known)
        assert abs(found.unexplained) < 1e-4
        assert parts_sum(found) == pytest.approx(float(logits[label]), abs=1e-4)
