"""The maximiser of expected F1 is the best of all label sets."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import check_known
from mlcrf.crf.potentials import Potentials
from mlcrf.decoding import Admissible, empty_probability, maximise_expected_f1
from mlcrf.rules import Rules
from tests.decoding import brute
from tests.making import close, draw_known, make_potentials
from tests.oracle import oracles

CHAIN = Rules(((0, 1), (1, 2), (4, 2)))  # 0 implies 1, 1 and 4 imply 2


def check(
    potentials: Potentials, *, known: Tensor | None = None, at_least: int = 0, at_most: int = 99
) -> None:
    """The value is that of the set, and no admissible set has a higher one."""
    clamped = check_known(potentials, known)
    truth = oracles(potentials.as_couplings(), clamped)
    counts, empty = brute.count_marginals(truth, potentials.num_labels), brute.empty(truth)
    allowed = Admissible(clamped, potentials.rules, at_least, at_most)
    states, value = maximise_expected_f1(counts, empty, allowed)
    assert (states.dtype, states.shape) == (torch.int64, potentials.unary.shape)
    for image, one in enumerate(truth):
        among = brute.admissible_states(
            clamped[image].tolist(), potentials.rules, at_least, at_most
        )
        assert tuple(states[image].tolist()) in among
        best = brute.best_expectation("f1", one.probabilities, among)
        assert float(value[image]) == pytest.approx(best, abs=1e-12)
        own = brute.expectation("f1", one.probabilities, states[image])
        assert own == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("num_labels", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("sizes", [(1.0, 0.5), (3.0, 2.0), (50.0, 30.0)])
def test_equals_brute_force(num_labels: int, sizes: tuple[float, float]) -> None:
    """At weak and strong couplings no label set has a higher expected F1."""
    check(make_potentials(3, num_labels, unary=sizes[0], pairwise=sizes[1]))


def test_equals_brute_force_where_little_is_present() -> None:
    """Where the empty set is likely and labels exclude each other, it competes and is right."""
    made = make_potentials(6, 7, unary=1.0, pairwise=2.0)
    for shift in (-1.0, -2.0, -3.0, -5.0):
        check(Potentials(made.unary + shift, made.edges, -made.pairwise.abs()))


def test_equals_brute_force_with_ten_labels() -> None:
    """The same with 2^10 label sets."""
    check(make_potentials(1, 10, unary=2.0, pairwise=1.0))


@pytest.mark.parametrize("num_unknown", [6, 3, 1, 0])
def test_known_labels_are_conditioned_on(num_unknown: int) -> None:
    """Given known labels, the best set is among those that agree with them."""
    made = make_potentials(5, 6, unary=1.5, pairwise=1.5)
    check(made, known=draw_known(made, num_unknown=num_unknown))


@pytest.mark.parametrize("limits", [(0, 0), (0, 1), (0, 3), (2, 4), (4, 99), (6, 6)])
def test_limits_are_part_of_the_maximisation(limits: tuple[int, int]) -> None:
    """With limits on the number of labels the result is the best of the sets within them."""
    check(make_potentials(5, 6, unary=1.5, pairwise=1.5), at_least=limits[0], at_most=limits[1])


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("limits", [(0, 99), (0, 2), (3, 4)])
def test_implications_hold(limits: tuple[int, int], clamp: bool) -> None:
    """With rules the result is the best set that has the parents of its labels."""
    made = make_potentials(6, 5, unary=1.5, pairwise=1.5)
    potentials = Potentials(made.unary, made.edges, made.pairwise, CHAIN)
    known = torch.full((6, 5), -1)
    if clamp:
        known[:, 3] = 0
        known[::2, 1] = 1
    check(potentials, known=known, at_least=limits[0] if not clamp else 2, at_most=limits[1])


def test_ties_never_contradict_what_is_known_or_implied() -> None:
    """Among labels of equal gain the known and the parents come first, whatever their number."""
    counts = torch.zeros(2, 3, 4, dtype=torch.float64)
    counts[:, :, 3] = 1.0  # all three for certain
    known = torch.tensor([[-1, -1, 1], [-1, -1, -1]])
    allowed = Admissible(known, Rules(((0, 1),)), 0, 1)
    states, value = maximise_expected_f1(counts, torch.zeros(2), allowed)
    assert states.tolist() == [[0, 0, 1], [0, 1, 0]]
    close(value, torch.full((2,), 0.5, dtype=torch.float64), 1e-15)


def test_f1_of_two_empty_sets_is_one() -> None:
    """One label: the empty set has 1 - p, the label p; at a half the smaller set is taken."""
    p = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    counts = torch.stack([torch.zeros_like(p), p], -1)[:, None]
    states, value = maximise_expected_f1(counts, 1 - p)
    assert states.flatten().tolist() == [0, 0, 0, 1, 1]
    close(value, torch.tensor([1.0, 0.8, 0.5, 0.7, 1.0], dtype=torch.float64), 1e-15)


def test_a_set_larger_than_any_that_occurs() -> None:
    """With one label of many, all as likely, k of them have 2 k / (L (k + 1)): all are best."""
    counts = torch.zeros(1, 40, 2)
    counts[..., 1] = 1 / 40
    states, value = maximise_expected_f1(counts, torch.zeros(1))
    assert int(states.sum()) == 40
    assert float(value) == pytest.approx(2 / 41, abs=1e-7)


def test_ending_early_loses_nothing() -> None:
    """The best over the first few k is the best over all, as gains sorted one by one show."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(8):
        samples = torch.rand(50, 60, generator=generator, dtype=torch.float64) < 0.08
        counts = torch.zeros(1, 60, 61, dtype=torch.float64)
        for row in samples:
            counts[0, row, int(row.sum())] += 1 / 50
        width = int(samples.sum(1).max()) + 1
        empty = empty_probability(counts)
        assert float(empty) == pytest.approx(float((~samples.any(1)).double().mean()), abs=1e-12)
        best = float(empty)
        for k in range(1, 61):
            gain = sum(counts[0, :, s] * 2 / (s + k) for s in range(1, 61))
            best = max(best, float(gain.sort(descending=True).values[:k].sum()))
        _, value = maximise_expected_f1(counts[..., :width], empty)
        assert float(value) == pytest.approx(best, abs=1e-12), trial


def test_a_batch_equals_its_rows() -> None:
    """An image has the same set alone as among others that stop at another k."""
    made = make_potentials(6, 6, unary=1.0, pairwise=2.0)
    potentials = Potentials(
        made.unary + torch.linspace(-4, 4, 6, dtype=torch.float64)[:, None],
        made.edges,
        made.pairwise,
    )
    truth = oracles(potentials)
    counts, empty = brute.count_marginals(truth, 6), brute.empty(truth)
    states, value = maximise_expected_f1(counts, empty)
    assert len({int(size) for size in states.sum(1)}) > 2
    for row in range(6):
        alone, own = maximise_expected_f1(counts[row : row + 1], empty[row : row + 1])
        assert torch.equal(alone[0], states[row])
        close(own, value[row : row + 1], 1e-15)


def test_no_image() -> None:
    """No image gives no set."""
    states, value = maximise_expected_f1(torch.zeros(0, 4, 5), torch.zeros(0))
    assert (states.shape, value.shape) == ((0, 4), (0,))
    allowed = Admissible(torch.zeros(0, 4, dtype=torch.int64), Rules(), 1)
    assert maximise_expected_f1(torch.zeros(0, 4, 5), torch.zeros(0), allowed)[0].shape == (0, 4)
