"""Count right tags after a number of answers, for several orders of questions.

As on the page of `mlcrf review`: of a photo the question that tells most is asked, and the answer,
from the truth, lets the photo's other tags follow. Which photo comes next:

    teaches: the one whose best question tells most; ranked anew after every 250 answers
    name:    one after the other, in the order of their names, a question each, again and again
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlcrf.inference import InferenceMethod, prepare
from mlcrf.inference.questions import (
    answer_information,
    label_entropy,
    next_questions,
    pair_marginals,
)

PHOTO_ORDERS = ("name", "teaches")
_AT_ONCE = 250

# rows of images and what is known of each (n, L), to marginals and what an answer tells (n, L)
Asking = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def with_couplings(potentials: Any, method: InferenceMethod) -> Asking:
    """The CRF's marginals, and the information by its pairs."""
    prepared = prepare(method, potentials)

    def ask(rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        pairs = pair_marginals(prepared, potentials.rows(rows), known=known)
        marginals = prepared(potentials.rows(rows), known=known).marginals
        return marginals, answer_information(pairs).masked_fill(known >= 0, 0)

    return ask


def without_couplings(unary: Tensor) -> Asking:
    """Independent marginals; an answer tells of its own tag alone."""

    def ask(rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        p = unary[rows].sigmoid().where(known < 0, known.float())
        return p, label_entropy(p)

    return ask


def wrong_after(ask: Asking, truth: Tensor, budgets: list[int], *, order: str) -> list[float]:
    """Wrong labels per photo after so many answers in all; `budgets` rise, in steps of 250."""
    known = torch.full_like(truth, -1)
    marginals, information = torch.zeros(truth.shape), torch.zeros(truth.shape).double()
    for rows in torch.arange(len(truth)).split(_AT_ONCE):
        marginals[rows], information[rows] = ask(rows, known[rows])
    found, asked, at = [], 0, 0
    for budget in budgets:
        while asked < budget:
            step = min(_AT_ONCE, len(truth), budget - asked)
            if order == "teaches":
                rows = information.amax(1).topk(step).indices
            else:
                rows = torch.arange(at, at + step) % len(truth)
                at = (at + step) % len(truth)
            labels = next_questions(information[rows], known[rows] < 0)
            known[rows, labels] = truth[rows, labels]
            marginals[rows], information[rows] = ask(rows, known[rows])
            asked += step
        found.append(float(((marginals > 0.5).long() != truth).sum(1).double().mean()))
    return found
