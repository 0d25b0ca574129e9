"""Published models as log-potentials, and their published answers.

A file of `data/` holds either `factors`, tables of one or two labels whose product is the weight
of a label vector (the last label changes fastest), or `weights`, whose sum is its score: a number,
one label and a number, or two labels and a number; negated if the problem is one to `minimise`.
`marginals`, if published, are P(label = 1) with nothing known, in the order of the labels.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcrf.crf import IMPOSSIBLE, UNKNOWN, Potentials

DATA = Path(__file__).parent / "data"

Values = Mapping[str, int]  # of some labels, by name


class Quantity(StrEnum):
    """The kinds of published answers; all are of the source's model, its constant included."""

    LOG_Z = "log Z"
    LOG10_Z = "log10 Z"
    Z = "Z"
    PROBABILITY = "probability"
    BEST_SCORE = "best score"  # of a label vector
    MINIMUM = "minimum"  # the same, negated
    BEST_PRODUCT = "best product"  # the same, as a product of factors
    BEST_STATE = "best state"


@dataclass(frozen=True)
class Answer:
    """A published number.

    Attributes:
        value: as it is printed; for `BEST_STATE` the value of each label in turn.
        of: labels whose joint probability it is, with their values.
        given: known labels, with their values.
        right: the true value, where the published one is at fault.
    """

    quantity: Quantity
    value: str
    of: Values = field(default_factory=dict)
    given: Values = field(default_factory=dict)
    right: str | None = None

    def agrees(self, ours: str) -> bool:
        """Return whether a value computed here is the right one, to the digits printed."""
        right = self.right or self.value
        if self.quantity is Quantity.BEST_STATE:
            return ours == right
        unit = Decimal(1).scaleb(int(Decimal(right).as_tuple().exponent))
        return abs(Decimal(ours) - Decimal(right)) <= unit * Decimal("0.5000001")


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        labels: names.
        unary, pairwise: log-potentials by label and by pair of labels.
        constant: log-weight of the label vector without any label.
        answers: published ones.
    """

    name: str
    source: str
    licence: str
    conversion: str
    labels: Sequence[str]
    unary: Mapping[str, float]
    pairwise: Mapping[tuple[str, str], float]
    constant: float
    answers: Sequence[Answer]

    @cached_property
    def cases(self) -> list[Values]:
        """Known labels of each image: none, those that answers are given, and joint events."""
        cases: list[Values] = [{}]
        for answer in self.answers:
            cases.append(answer.given)
            if len(answer.of) > 1:
                cases.append({**answer.given, **answer.of})
        return [case for place, case in enumerate(cases) if case not in cases[:place]]

    @cached_property
    def known(self) -> Tensor:
        """The cases as known labels (N, L)."""
        rows = [[case.get(label, UNKNOWN) for label in self.labels] for case in self.cases]
        return torch.tensor(rows)

    @cached_property
    def potentials(self) -> Potentials:
        """The log-potentials in float64, repeated for each case."""
        place = {label: number for number, label in enumerate(self.labels)}
        pairs = {
            tuple(sorted((place[first], place[second]))): value
            for (first, second), value in self.pairwise.items()
        }
        unary = [self.unary.get(label, 0.0) for label in self.labels]
        return Potentials(
            torch.tensor(unary, dtype=torch.float64).repeat(len(self.cases), 1),
            torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2),
            torch.tensor(list(pairs.values()), dtype=torch.float64),
        )


def from_factors(factors: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The log-potentials of a product of tables; a zero is e^-100."""
    constant, unary, pairwise = 0.0, dict[str, float](), dict[tuple[str, str], float]()
    for factor in factors:
        logs = [math.log(value) if value else -IMPOSSIBLE for value in factor["values"]]
        constant += logs[0]
        match factor["labels"]:
            case [label]:
                _add(unary, label, logs[1] - logs[0])
            case [first, second]:
                _add(unary, first, logs[2] - logs[0])
                _add(unary, second, logs[1] - logs[0])
                _add(pairwise, (first, second), logs[3] - logs[2] - logs[1] + logs[0])
    return {"constant": constant, "unary": unary, "pairwise": pairwise}


def from_weights(weights: Iterable[Sequence[Any]], *, minimise: bool) -> dict[str, Any]:
    """The log-potentials of a sum of weights."""
    constant, unary, pairwise = 0.0, dict[str, float](), dict[tuple[str, str], float]()
    for *labels, weight in weights:
        value = -float(weight) if minimise else float(weight)
        match labels:
            case []:
                constant += value
            case [label]:
                _add(unary, label, value)
            case [first, second]:
                _add(pairwise, (first, second), value)
    return {"constant": constant, "unary": unary, "pairwise": pairwise}


def read_model(path: Path) -> Model:
    """Read a file of `data/`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    answers = [
        Answer(**{**answer, "quantity": Quantity(answer["quantity"])})
        for answer in content.pop("answers")
    ]
    marginals = " ".join(content.pop("marginals", [])).split()
    if marginals:
        answers += [
            Answer(Quantity.PROBABILITY, value, of={label: 1})
            for label, value in zip(content["labels"], marginals, strict=True)
        ]
    if "factors" in content:
        terms = from_factors(content.pop("factors"))
    else:
        terms = from_weights(content.pop("weights"), minimise=content.pop("minimise"))
    return Model(**content, **terms, answers=answers)


def _add(terms: dict[Any, float], key: Any, value: float) -> None:
    terms[key] = terms.get(key, 0.0) + value
