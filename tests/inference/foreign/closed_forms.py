"""Models whose answers follow from a published formula or count, computed in plain Python."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise, product

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


def torus_log_z(rows: int, columns: int, k: float) -> float:
    """Log Z of the Ising model on a torus without a field (Kaufman 1949), for k > 0.

    Four products over the eigenvalues of the transfer matrix, with cosh gamma_i =
    cosh(2k)^2 / sinh(2k) - cos(pi i / columns) and gamma_0 = 2k + log tanh k, whose sign matters.
    """
    ratio = math.cosh(2 * k) ** 2 / math.sinh(2 * k)
    gammas = [math.acosh(ratio - math.cos(math.pi * i / columns)) for i in range(1, 2 * columns)]
    gammas = [2 * k + math.log(math.tanh(k)), *gammas]
    terms = []
    for first in (0, 1):
        halves = [rows * gamma / 2 for gamma in gammas[first::2]]
        terms.append(math.prod(2 * math.cosh(half) for half in halves))
        terms.append(math.prod(2 * math.sinh(half) for half in halves))
    size = rows * columns
    return size / 2 * math.log(2 * math.sinh(2 * k)) + math.log(math.fsum(terms) / 2)


def ising_torus(rows: int, columns: int, k: float) -> Model:
    """Make spins on a torus; for k < 0 both sides are even, so that every other spin can turn."""
    assert k > 0 or not (rows % 2 or columns % 2)
    pairs = [
        (_square(row, column), _square((row + down) % rows, (column + 1 - down) % columns))
        for row, column, down in product(range(rows), range(columns), (0, 1))
    ]
    answers = [
        Answer(Quantity.LOG_Z, f"{torus_log_z(rows, columns, abs(k)):.7f}"),
        Answer(Quantity.PROBABILITY, "0.5000000", of={_square(0, 0): 1}),
        Answer(Quantity.BEST_SCORE, f"{2 * rows * columns * abs(k):.7f}"),
    ]
    source = "Kaufman (1949), Crystal statistics II, equation for Z on a torus"
    if rows == columns == 4:
        counted = math.fsum(n * math.exp(k * total) for total, n in _STATES_BY_SUM.items())
        answers.insert(1, Answer(Quantity.LOG_Z, f"{math.log(counted):.7f}"))
        source += "; Beale (1996), the states of each energy"
    return spins(f"Ising torus {rows} x {columns}, k = {k:.4g}", source, pairs, k, answers)


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


def ising_tree(depth: int, k: float) -> Model:
    """Make a complete binary tree, whose pairs are alike or not independently of each other."""
    pairs = [(f"s{(child - 1) // 2}", f"s{child}") for child in range(1, 2**depth - 1)]
    together = 1 / (1 + math.exp(-2 * k))  # probability that two neighbours are alike
    answers = [
        Answer(Quantity.LOG_Z, f"{math.log(2) + len(pairs) * math.log(2 * math.cosh(k)):.7f}"),
        Answer(Quantity.PROBABILITY, f"{together / 2:.7f}", of={"s0": 1, "s1": 1}),
        Answer(Quantity.PROBABILITY, f"{1 - together:.7f}", of={"s0": 0}, given={"s1": 1}),
        Answer(Quantity.BEST_SCORE, f"{len(pairs) * abs(k):.7f}"),
    ]
    source = "the Ising model on a tree, as in any textbook"
    return spins(f"Ising tree of {len(pairs) + 1}, k = {k:.4g}", source, pairs, k, answers)


def tag_chain(length: int) -> Model:
    """Make a chain of two tags for each word, with the score of pytorch-crf and pytorch-struct.

    A start, each transition, each word and an end have a score, made up by sines. The forward
    algorithm, with log-sums and with maxima (Rabiner 1989), gives the answers.
    """
    start, end = (0.3, -0.4), (-0.2, 0.1)
    moves = ((0.9, -0.6), (-1.1, 0.7))  # from a tag to the next
    words = [(math.sin(3 * t), math.cos(5 * t)) for t in range(length)]
    sums = best = [start[tag] + words[0][tag] for tag in (0, 1)]
    for word in words[1:]:
        steps = [(moves[0][tag] + word[tag], moves[1][tag] + word[tag]) for tag in (0, 1)]
        sums = [_log_sum(sums[0] + first, sums[1] + second) for first, second in steps]
        best = [max(best[0] + first, best[1] + second) for first, second in steps]
    sums = [sums[tag] + end[tag] for tag in (0, 1)]
    log_z, best_score = _log_sum(*sums), max(best[0] + end[0], best[1] + end[1])

    names = [f"t{t}" for t in range(length)]
    weights: list[list[object]] = []
    for name, (first, second) in zip(
        [names[0], *names, names[-1]], [start, *words, end], strict=True
    ):
        weights += [[first], [name, second - first]]
    (stay, rise), (fall, stay_up) = moves
    for one, other in pairwise(names):
        weights += [[stay], [one, fall - stay], [other, rise - stay]]
        weights.append([one, other, stay_up - fall - rise + stay])
    return Model(
        name=f"chain of {length} tags",
        source="the linear-chain CRF of pytorch-crf and pytorch-struct, by the forward algorithm",
        licence=_LICENCE,
        conversion="a label is the second tag of a word",
        labels=names,
        answers=[
            Answer(Quantity.LOG_Z, f"{log_z:.7f}"),
            Answer(Quantity.PROBABILITY, f"{math.exp(sums[1] - log_z):.7f}", of={names[-1]: 1}),
            Answer(Quantity.BEST_SCORE, f"{best_score:.7f}"),
        ],
        **from_weights(weights, minimise=False),
    )


def potts_ring(length: int, k: float, *, colours: int = 3) -> Model:
    """Make a ring of colours, with weight exp(k) for each two neighbours that are alike.

    A label for each colour but the last, which is that of a place without a label. Z is the trace
    of a power of the transfer matrix (Potts 1952).
    """
    names = [[f"p{place}c{colour}" for colour in range(colours - 1)] for place in range(length)]
    weights: list[list[object]] = []
    for place in names:
        weights += [[*pair, _EXCLUDED] for pair in combinations(place, 2)]
    for here, there in zip(names, names[1:] + names[:1], strict=True):
        weights += [[k], *([label, -k] for label in here + there)]
        for (i, one), (j, other) in product(enumerate(here), enumerate(there)):
            weights.append([one, other, 2 * k if i == j else k])
    alike, different = math.exp(k) + colours - 1, math.exp(k) - 1
    z = alike**length + (colours - 1) * different**length
    same = alike ** (length - 1) + (colours - 1) * different ** (length - 1)  # d z / d e^k / length
    return Model(
        name=f"Potts ring of {length}, {colours} colours, k = {k:.4g}",
        source="Potts (1952), the transfer matrix of a ring",
        licence=_LICENCE,
        conversion="a label for each colour of a place but the last; two exclude each other by -60",
        labels=[label for place in names for label in place],
        answers=[
            Answer(Quantity.LOG_Z, f"{math.log(z):.7f}"),
            Answer(Quantity.PROBABILITY, f"{1 / colours:.7f}", of={names[0][0]: 1}),
            Answer(
                Quantity.PROBABILITY,
                f"{math.exp(k) * same / z:.7f}",
                of={names[1][0]: 1},
                given={names[0][0]: 1},
            ),
            Answer(Quantity.BEST_SCORE, f"{length * k:.7f}"),
        ],
        **from_weights(weights, minimise=False),
    )


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


def lucas(length: int, count: int) -> Model:
    names = [f"v{i}" for i in range(length)]
    return exclusions(
        f"independent sets of a ring of {length}",
        "OEIS A000032, the Lucas numbers",
        list(zip(names, names[1:] + names[:1], strict=True)),
        0.0,
        [Answer(Quantity.Z, str(count)), Answer(Quantity.BEST_SCORE, "0")],
    )


def _petersen_pairs() -> list[Pair]:
    outer = [(f"a{i}", f"a{(i + 1) % 5}") for i in range(5)]
    inner = [(f"b{i}", f"b{(i + 2) % 5}") for i in range(5)]
    return outer + inner + [(f"a{i}", f"b{i}") for i in range(5)]


def petersen_colourings() -> Model:
    """Make two labels for each of ten places, red and green; a place without either is blue."""
    weights: list[list[object]] = []
    pairs = _petersen_pairs()
    for place in _ends(pairs):
        # above what three neighbours without a label would give for both
        weights.append([f"{place}r", f"{place}g", 5 * _EXCLUDED])
    for one, other in pairs:
        weights += [[f"{one}{colour}", f"{other}{colour}", _EXCLUDED] for colour in "rg"]
        here, there = ([f"{place}{colour}" for colour in "rg"] for place in (one, other))
        weights += [[_EXCLUDED], *([label, -_EXCLUDED] for label in here + there)]
        weights += [[*pair, _EXCLUDED] for pair in product(here, there)]
    return Model(
        name="colourings of the Petersen graph",
        source="its chromatic polynomial at three colours, as in any textbook",
        licence=_LICENCE,
        conversion="two labels for a place, each excluding the other; e^-60 where neighbours agree",
        labels=[f"{place}{colour}" for place in _ends(pairs) for colour in "rg"],
        answers=[
            Answer(Quantity.Z, "120"),
            Answer(Quantity.PROBABILITY, f"{1 / 3:.7f}", of={"a0r": 1}),
            Answer(Quantity.PROBABILITY, "0.5000000", of={"a1g": 1}, given={"a0r": 1}),
            Answer(Quantity.BEST_SCORE, "0"),
        ],
        **from_weights(weights, minimise=False),
    )


def petersen() -> Model:
    answers = [
        Answer(Quantity.Z, "76"),
        Answer(Quantity.PROBABILITY, f"{18 / 76:.7f}", of={"a0": 1}),  # 10 + 60 + 90 + 20 = 180
    ]
    return exclusions(
        "independent sets of the Petersen graph",
        "the independence polynomial 1 + 10 x + 30 x^2 + 30 x^3 + 5 x^4",
        _petersen_pairs(),
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
        ising_tree(7, 0.5),
        ising_torus(4, 4, 0.2),
        ising_torus(4, 4, _CRITICAL),
        ising_torus(4, 4, 0.8),
        ising_torus(3, 5, 0.3),
        ising_torus(4, 6, -0.5),
        ising_torus(6, 6, 0.2),
        ising_torus(6, 6, _CRITICAL),
        ising_torus(3, 30, _CRITICAL),
        ising_torus(12, 12, 0.3),
        curie_weiss(12, 0.05),
        curie_weiss(16, 0.5),
        hard_squares(4, 1234),
        hard_squares(6, 5598861),
        lucas(30, 1860498),
        petersen(),
        petersen_colourings(),
        potts_ring(8, 1.0),
        tag_chain(20),
        queens(8),
    ]


def _log_sum(first: float, second: float) -> float:
    return max(first, second) + math.log1p(math.exp(-abs(first - second)))


def _square(row: int, column: int) -> str:
    return f"r{row}c{column}"


def _ends(pairs: Iterable[Pair]) -> list[str]:
    return sorted({label for pair in pairs for label in pair})
