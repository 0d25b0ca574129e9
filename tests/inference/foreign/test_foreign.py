"""Every method on published models, held to the published answers or to what its word means."""

import pytest
import torch

from mlcrf.crf import UNKNOWN
from tests.inference.foreign.answers import MODELS, answer, exact_method, infer, reaches, truth
from tests.inference.foreign.models import Quantity
from tests.inference.foreign.tables import fill, format_answers
from tests.inference.methods import ANY, EXACT, LOWER, UPPER, Row, rows
from tests.making import close
from tests.mirror import ROOT
from tests.oracle import Oracle

_MODERATE = 8.0  # size of potentials up to which beliefs are not rounded to 0 or 1
_SPANNING_TREES = 12  # pairs of a graph whose spanning trees are enumerated
_NOT_EXACT = {
    "8 queens",
    "Ising torus 12 x 12, k = 0.3",
    "UAI Boltzmann machine, 20 + 20",
    "UAI segmentation",
}

NUMBERS = range(len(MODELS))
SOLVED = [number for number in NUMBERS if exact_method(MODELS[number])]


def models(numbers: range | list[int] = NUMBERS) -> pytest.MarkDecorator:
    """The test is made once for each of the models."""
    names = [MODELS[number].name for number in numbers]
    return pytest.mark.parametrize("number", numbers, ids=names)


@models(SOLVED)
@rows(lambda row: row.log_z is EXACT and row.takes is ANY)
def test_exact_methods_give_the_published_answers(row: Row, number: int) -> None:
    """Every digit that is printed."""
    if not reaches(row.method, MODELS[number]):
        pytest.skip("too large for this exact method")
    for question in MODELS[number].answers:
        ours = answer(row.method, number, question)
        assert question.agrees(ours), (question, ours)


def test_all_models_but_four_are_solved_exactly() -> None:
    """Otherwise the other tests would compare with nothing but what is published."""
    assert {MODELS[number].name for number in NUMBERS if number not in SOLVED} == _NOT_EXACT


@models([n for n in SOLVED if any(one.right for one in MODELS[n].answers)])
def test_enumeration_judges_what_is_at_fault(number: int) -> None:
    """A published best state that is not the best has a lower score than ours."""
    model = MODELS[number]
    for one in model.answers:
        if one.right is None:
            continue
        assert one.quantity is Quantity.BEST_STATE
        row = model.cases.index(one.given)
        pairs = zip(
            map(tuple, model.potentials.edges.tolist()),
            model.potentials.pairwise.tolist(),
            strict=True,
        )
        oracle = Oracle(
            model.potentials.unary[row].tolist(), dict(pairs), model.known[row].tolist()
        )
        published, right = (tuple(map(int, state)) for state in (one.value, one.right))
        assert oracle.scores[published] < oracle.best_score
        assert oracle.scores[right] == oracle.best_score


@models()
@rows(lambda row: row.takes is ANY)
def test_answers_are_possible(row: Row, number: int) -> None:
    """Probabilities, finite log Z, known labels kept, no label vector above the best score."""
    model = MODELS[number]
    if not reaches(row.method, model):
        pytest.skip("too large for this exact method")
    posterior, states = infer(row.method, number)
    assert bool(((posterior.marginals >= 0) & (posterior.marginals <= 1)).all())
    assert bool(posterior.log_partition.isfinite().all())
    clamped = model.known != UNKNOWN
    assert torch.equal(states[clamped], model.known[clamped])
    close(posterior.marginals[clamped], model.known[clamped].double(), 1e-12)
    right, scores = truth(number), model.potentials.log_score(states)
    assert not bool((scores > right.best_score + 1e-9 * (1 + scores.abs())).any())
    assert not bool((scores > right.log_z + right.rounding).any())
    assert (posterior.advice == "") == bool(posterior.converged.all())


@models()
@rows(lambda row: row.random)
def test_samplers_that_say_converged_are_right(row: Row, number: int) -> None:
    """Log Z and marginals are within five standard errors, log Z not below the best score known.

    The error of log Z is the one given; the marginals' is that of 100 draws, since both samplers
    claim as many effective ones of an image that has converged.
    """
    posterior, _ = infer(row.method, number)
    says, error = posterior.converged, posterior.log_partition_error
    assert error is not None
    right, log_z = truth(number), posterior.log_partition
    allowed = 5 * error + 1e-6 + right.rounding
    assert not bool((log_z < right.best_score - allowed)[says].any())
    assert not bool(((log_z - right.log_z).abs() > allowed)[says].any())
    draws = 5 * (right.marginals * (1 - right.marginals) / 100).sqrt() + 0.01
    assert not bool(((posterior.marginals - right.marginals).abs() > draws)[says].any())


@models()
@rows(lambda row: row.log_z in (LOWER, UPPER))
def test_bounds_are_on_their_side_of_log_z(row: Row, number: int) -> None:
    """Converged or not, whatever is known."""
    sign = 1 if row.log_z is LOWER else -1
    right = truth(number)
    bound = infer(row.method, number)[0].log_partition
    assert not bool((sign * (bound - right.log_z) > right.rounding).any())


def is_moderate(number: int) -> bool:
    terms = MODELS[number].potentials
    return max(terms.unary.abs().max().item(), terms.pairwise.abs().max().item()) <= _MODERATE


@models([number for number in NUMBERS if is_moderate(number)])
@rows(lambda row: row.equation is not None)
def test_variational_methods_that_say_converged_are_at_a_fixed_point(row: Row, number: int) -> None:
    """The word claims no more than this."""
    model = MODELS[number]
    apart = set(model.labels) != {label for pair in model.pairwise for label in pair}
    if row.method.name == "tree-reweighted" and (apart or len(model.pairwise) > _SPANNING_TREES):
        pytest.skip("no spanning tree, or too many to enumerate")
    nothing_known = model.potentials.rows(slice(0, 1))
    posterior = row.method(nothing_known)
    assert row.equation is not None
    residual = row.equation(nothing_known, posterior).abs().max(1).values
    assert bool((residual[posterior.converged] < 1e-6).all())


@rows(lambda row: row.takes is ANY)
def test_methods_converge_on_many_models(row: Row) -> None:
    """Claims about converged images are not empty."""
    ran = [number for number in NUMBERS if reaches(row.method, MODELS[number])]
    converged = [infer(row.method, number)[0].converged[0].item() for number in ran]
    assert sum(converged) >= len(ran) / 4


def test_the_table_of_the_docs_is_that_of_this_code() -> None:
    """`python -m tests.inference.foreign docs/inference.md` renews it."""
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    assert fill(page, "answers", format_answers()) == page
