"""Models whose answers follow from a published formula or count, computed in plain Python."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, product

from tests.inference.foreign.models import Answer, Model, Quantity, from_weights

Pair = tuple[str, str]
_LICENCE = "a formula or a count, no data"
_EXCLUDED = -60.0  # coupling of labels that exclude each other: e^-60 in place of 0
_CRITICAL = math.log(1 + math.sqrt(2)) / 2

# states of the 4 x 4 torus by the sum over its 32 pairs of the product of their spins
_STATES_BY_SUM = {
    **{32: 2, 24: 32, 20: 64, 16: 424, 12: 1728, 8: 6688, 4: 13568, 0: 20524},
    **{-4: 13568, -8: 6688, -12: 1728, -16: 424, -20: 64, -24: 32, -32: 2},
}


def spins(name: str, source: str, pairs: Sequence[Pair], k: float, answers: list[Answer]) -> Model:
    """A model with weight exp(k s_i s_j) for each pair of spins s = 2 y - 1."""
    weights: list[list[object]] = []
    for first, second in pairs:
        weights += [[k], [first, -2 * k], [second, -2 * k], [first, second, 4 * k]]
    return Model(
        name=name,
        source=source,
        licence=_LICENCE,
        conversion="k s s' with s = 2 y - 1 is k (4 y y' - 2 y - 2 y' + 1)",
        labels=_ends(pairs),
        answers=answers,
        **from_weights(weights, minimise=False),
    )


def exclusions(
    name: str, source: str, pairs: Sequence[Pair], unary: float, answers: list[Answer]
) -> Model:
    """A model of label sets without any of the pairs, with weight exp(unary) for each label."""
    labels = _ends(pairs)
    weights = [[label, unary] for label in labels] + [[*pair, _EXCLUDED] for pair in pairs]
    return Model(
        name=name,
        source=source,
        licence=_LICENCE,
        conversion="a coupling of -60 for each pair that may not be present together",
        labels=labels,
        answers=answers,
        **from_weights(weights, minimise=False),
    )


def torus_log_z(side: int, k: float) -> float:
    """Log Z of the Ising model on a square torus without a field (Kaufman 1949), for k > 0.

    Four products over the eigenvalues of the transfer matrix, with cosh gamma_i =
    cosh(2k)^2 / sinh(2k) - cos(pi i / side) and gamma_0 = 2k + log tanh k, whose sign matters.
    """
    ratio = math.cosh(2 * k) ** 2 / math.sinh(2 * k)
    gammas = [math.acosh(ratio - math.cos(math.pi * i / side)) for i in range(1, 2 * side)]
    gammas = [2 * k + math.log(math.tanh(k)), *gammas]
    terms = []
    for first in (0, 1):
        halves = [side * gamma / 2 for gamma in gammas[first::2]]
        terms.append(math.prod(2 * math.cosh(half) for half in halves))
        terms.append(math.prod(2 * math.sinh(half) for half in halves))
    return side**2 / 2 * math.log(2 * math.sinh(2 * k)) + math.log(math.fsum(terms) / 2)


def ising_torus(side: int, k: float) -> Model:
    pairs = [
        (_square(row, column), _square((row + down) % side, (column + 1 - down) % side))
        for row, column, down in product(range(side), range(side), (0, 1))
    ]
    answers = [
        Answer(Quantity.LOG_Z, f"{torus_log_z(side, k):.7f}"),
        Answer(Quantity.PROBABILITY, "0.5000000", of={_square(0, 0): 1}),
        Answer(Quantity.BEST_SCORE, f"{2 * side**2 * k:.7f}"),
    ]
    if side == 4:
        counted = math.fsum(n * math.exp(k * total) for total, n in _STATES_BY_SUM.items())
        answers.insert(1, Answer(Quantity.LOG_Z, f"{math.log(counted):.7f}"))
    source = "Kaufman (1949), Crystal statistics II, equation for Z on a torus"
    if side == 4:
        source += "; Beale (1996), the states of each energy"
    return spins(f"Ising torus {side} x {side}, k = {k:.4g}", source, pairs, k, answers)


def curie_weiss(num_labels: int, k: float) -> Model:
    """All spins coupled alike: a sum over the number m of those that are up."""
    pairs = list(combinations([f"s{i}" for i in range(num_labels)], 2))
    totals = [((2 * m - num_labels) ** 2 - num_labels) / 2 for m in range(num_labels + 1)]
    top = max(k * total for total in totals)
    z = math.fsum(
        math.comb(num_labels, m) * math.exp(k * total - top) for m, total in enumerate(totals)
    )
    answers = [
        Answer(Quantity.LOG_Z, f"{top + math.log(z):.7f}"),
        Answer(Quantity.PROBABILITY, "0.5000000", of={"s0": 1}),
        Answer(Quantity.BEST_SCORE, f"{top:.7f}"),
    ]
    source = "the Curie-Weiss model: spins by their number, as in any textbook"
    return spins(f"Curie-Weiss, {num_labels} spins, k = {k:.4g}", source, pairs, k, answers)


def ising_chain(num_labels: int, k: float) -> Model:
    """A ring: the trace of a power of the transfer matrix (Ising 1925)."""
    names = [f"s{i}" for i in range(num_labels)]
    pairs = list(zip(names, names[1:] + names[:1], strict=True))
    z = (2 * math.cosh(k)) ** num_labels + (2 * math.sinh(k)) ** num_labels
    together = math.cosh(k) ** (num_labels - 2) * math.sinh(k) * math.cosh(k)
    together += math.sinh(k) ** (num_labels - 2) * math.cosh(k) * math.sinh(k)
    mean = together * 2**num_labels / z  # of the product of two neighbours
    answers = [
        Answer(Quantity.LOG_Z, f"{math.log(z):.7f}"),
        Answer(Quantity.PROBABILITY, f"{(1 + mean) / 4:.7f}", of={"s0": 1, "s1": 1}),
        Answer(Quantity.PROBABILITY, f"{(1 + mean) / 2:.7f}", of={"s1": 1}, given={"s0": 1}),
    ]
    source = "Ising (1925), the transfer matrix of a ring"
    return spins(f"Ising ring of {num_labels}, k = {k:.4g}", source, pairs, k, answers)


def hard_squares(side: int, count: int) -> Model:
    pairs = [
        (_square(row, column), _square(row + down, column + 1 - down))
        for row, column, down in product(range(side), range(side), (0, 1))
        if row + down < side and column + 1 - down < side
    ]
    return exclusions(
        f"hard squares {side} x {side}",
        "OEIS A006506, sets of squares of a board of which no two share a side",
        pairs,
        0.0,
        [Answer(Quantity.Z, str(count)), Answer(Quantity.BEST_SCORE, "0")],
    )


def petersen() -> Model:
    outer = [(f"a{i}", f"a{(i + 1) % 5}") for i in range(5)]
    inner = [(f"b{i}", f"b{(i + 2) % 5}") for i in range(5)]
    spokes = [(f"a{i}", f"b{i}") for i in range(5)]
    answers = [
        Answer(Quantity.Z, "76"),
        Answer(Quantity.PROBABILITY, f"{18 / 76:.7f}", of={"a0": 1}),  # 10 + 60 + 90 + 20 = 180
    ]
    return exclusions(
        "independent sets of the Petersen graph",
        "the independence polynomial 1 + 10 x + 30 x^2 + 30 x^3 + 5 x^4",
        outer + inner + spokes,
        0.0,
        answers,
    )


def queens(side: int) -> Model:
    squares = list(product(range(side), repeat=2))
    pairs = [
        (_square(*one), _square(*other))
        for one, other in combinations(squares, 2)
        if one[0] == other[0]
        or one[1] == other[1]
        or abs(one[0] - other[0]) == abs(one[1] - other[1])
    ]
    return exclusions(
        f"{side} queens",
        "Nauck (1850): as many queens as rows, none attacking another",
        pairs,
        1.0,
        [Answer(Quantity.BEST_SCORE, str(side))],
    )


def make_models() -> list[Model]:
    return [
        ising_chain(12, 0.5),
        ising_torus(4, 0.2),
        ising_torus(4, _CRITICAL),
        ising_torus(4, 0.8),
        ising_torus(6, _CRITICAL),
        curie_weiss(12, 0.05),
        curie_weiss(16, 0.5),
        hard_squares(4, 1234),
        hard_squares(6, 5598861),
        petersen(),
        queens(8),
    ]


def _square(row: int, column: int) -> str:
    return f"r{row}c{column}"


def _ends(pairs: Iterable[Pair]) -> list[str]:
    return sorted({label for pair in pairs for label in pair})
