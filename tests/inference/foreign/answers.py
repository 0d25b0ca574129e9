"""Answers of a method to the questions whose answers are published."""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlcrf.inference import Exact, InferenceMethod, JunctionTree, Posterior, treewidth
from tests.inference.foreign.closed_forms import make_models
from tests.inference.foreign.models import DATA, Answer, Model, Quantity, read_model

MODELS = [*map(read_model, sorted(DATA.glob("*.json"))), *make_models()]
_MAX_TREEWIDTH = 12
_MAX_EXACT_LABELS = 20
_PRINTED = 1e-3  # error of a published log Z that is rounding


def reaches(method: InferenceMethod, model: Model) -> bool:
    """Return whether the model is small enough for a quick answer of the method."""
    if isinstance(method, Exact):
        return len(model.labels) <= _MAX_EXACT_LABELS
    if isinstance(method, JunctionTree):
        edges = model.potentials.edges
        return treewidth(edges, len(model.labels), bound=_MAX_TREEWIDTH + 1) <= _MAX_TREEWIDTH
    return True


def exact_method(model: Model) -> InferenceMethod | None:
    """The first exact method that reaches the model, if any does."""
    methods: list[InferenceMethod] = [Exact(), JunctionTree()]
    return next((method for method in methods if reaches(method, model)), None)


@cache
def infer(method: InferenceMethod, number: int) -> tuple[Posterior, Tensor]:
    """Beliefs and best states of all cases of a model, given by its number in `MODELS`."""
    model = MODELS[number]
    potentials, known = model.potentials, model.known
    return method(potentials, known=known), method.map_states(potentials, known=known)


class Truth(NamedTuple):
    """The right answers of each case, by an exact method or as published; NaN where unknown.

    Attributes:
        log_z: without the constant of the model (N,).
        marginals: (N, L).
        best_score: also without the constant (N,).
        rounding: the error of log Z (N,).
    """

    log_z: Tensor
    marginals: Tensor
    best_score: Tensor
    rounding: Tensor


@cache
def truth(number: int) -> Truth:
    """Return the right answers about a model, given by its number in `MODELS`."""
    model, method = MODELS[number], exact_method(MODELS[number])
    if method is not None:
        posterior, states = infer(method, number)
        log_z, best_score = posterior.log_partition, model.potentials.log_score(states)
        return Truth(log_z, posterior.marginals, best_score, 1e-9 * (1 + log_z.abs()))
    unknown = torch.full_like(model.potentials.unary, torch.nan)
    log_z, marginals, best_score = unknown[:, 0].clone(), unknown, unknown[:, 0].clone()
    for one in model.answers:
        row, value = model.cases.index(one.given), float(one.value)
        match one.quantity:
            case Quantity.LOG_Z:
                log_z[row] = value - model.constant
            case Quantity.LOG10_Z:
                log_z[row] = value * math.log(10) - model.constant
            case Quantity.BEST_SCORE:
                best_score[row] = value - model.constant
            case Quantity.PROBABILITY:
                [(label, present)] = one.of.items()
                marginals[row, model.labels.index(label)] = value if present else 1 - value
    return Truth(log_z, marginals, best_score, torch.full_like(log_z, _PRINTED))


def answer(method: InferenceMethod, number: int, question: Answer) -> str:
    """A method's answer, with a few more digits than are published."""
    model = MODELS[number]
    posterior, states = infer(method, number)
    row = model.cases.index(question.given)
    log_z = posterior.log_partition[row].item() + model.constant
    best = model.potentials.log_score(states)[row].item() + model.constant
    match question.quantity:
        case Quantity.LOG_Z:
            value = log_z
        case Quantity.LOG10_Z:
            value = log_z / math.log(10)
        case Quantity.Z:
            value = math.exp(log_z)
        case Quantity.PROBABILITY:
            value = _probability(model, posterior, question)
        case Quantity.BEST_SCORE:
            value = best
        case Quantity.MINIMUM:
            value = -best
        case Quantity.BEST_PRODUCT:
            value = math.exp(best)
        case Quantity.BEST_STATE:
            return "".join(map(str, states[row].tolist()))
    return f"{value:.12g}"


def _probability(model: Model, posterior: Posterior, question: Answer) -> float:
    """By the marginal if one label is asked for, else by log Z with all of them known as well."""
    row = model.cases.index(question.given)
    if len(question.of) == 1:
        [(label, value)] = question.of.items()
        marginal = posterior.marginals[row, model.labels.index(label)].item()
        return marginal if value else 1 - marginal
    joint = model.cases.index({**question.given, **question.of})
    log_z = posterior.log_partition
    return math.exp((log_z[joint] - log_z[row]).item())
