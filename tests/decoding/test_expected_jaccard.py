"""The maximiser of expected Jaccard: exact for few labels, a good local maximum for many."""

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.decoding import (
    Admissible,
    count_marginals_from_samples,
    empty_probability,
    maximise_expected_f1,
    maximise_expected_jaccard,
)
from mlcrf.rules import Rules
from tests.decoding import brute
from tests.making import draw_known, make_potentials

CHAIN = Rules(((0, 1), (1, 2), (4, 2)))


def draw(potentials: Potentials, known: Tensor | None = None, num_samples: int = 60) -> Tensor:
    return brute.draw(potentials, num_samples, check_known(potentials, known))


def check(
    samples: Tensor,
    allowed: Admissible,
    *,
    limits: tuple[int, int] = (0, 99),
    exhaustive_labels: int = 10,
) -> list[float]:
    """The value is that of the set, which may be chosen; by how much each image falls short."""
    marginals = samples.double().mean(0)
    states, value = maximise_expected_jaccard(
        samples, marginals, allowed, exhaustive_labels=exhaustive_labels
    )
    assert (states.dtype, states.shape) == (torch.int64, marginals.shape)
    missing = []
    for image in range(samples.shape[1]):
        truth = brute.shares(samples[:, image])
        among = brute.admissible_states(allowed.known[image].tolist(), allowed.rules, *limits)
        assert tuple(states[image].tolist()) in among
        own = brute.expectation("jaccard", truth, states[image])
        assert float(value[image]) == pytest.approx(own, abs=1e-12)
        missing.append(brute.best_expectation("jaccard", truth, among) - own)
    return missing


@pytest.mark.parametrize("num_labels", [1, 2, 4, 7])
@pytest.mark.parametrize("sizes", [(1.0, 0.5), (3.0, 2.0), (50.0, 30.0)])
def test_few_labels_equal_brute_force(num_labels: int, sizes: tuple[float, float]) -> None:
    """Up to ten labels no set has a higher average over the samples."""
    potentials = make_potentials(3, num_labels, unary=sizes[0], pairwise=sizes[1])
    allowed = Admissible(torch.full((3, num_labels), -1))
    assert max(check(draw(potentials), allowed)) < 1e-6


@pytest.mark.parametrize("exhaustive_labels", [0, 10])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("limits", [(0, 99), (0, 2), (3, 4)])
def test_known_labels_limits_and_implications(
    limits: tuple[int, int], clamp: bool, exhaustive_labels: int
) -> None:
    """The best of the sets that may be chosen, whichever candidates there are."""
    made = make_potentials(8, 6, unary=1.5, pairwise=1.5)
    potentials = Potentials(made.unary, made.edges, made.pairwise, CHAIN)
    known = torch.full((8, 6), -1)
    if clamp:
        known[:, 3] = 0
        known[::4, 2] = 1
    known = check_known(potentials, known)
    samples = draw(potentials, known)
    missing = check(
        samples,
        Admissible(known, CHAIN, *limits),
        limits=limits,
        exhaustive_labels=exhaustive_labels,
    )
    assert max(missing) < (0.03 if exhaustive_labels == 0 else 1e-6)


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_candidates_come_close_to_brute_force(size: float) -> None:
    """Samples, nested sets, the best for F1 and single turns nearly always reach the best."""
    potentials = make_potentials(30, 7, unary=1.5, pairwise=size)
    samples = draw(potentials)
    missing = check(samples, Admissible(torch.full((30, 7), -1)), exhaustive_labels=0)
    assert sum(short > 1e-6 for short in missing) <= 2
    assert max(missing) < 0.01


def test_no_candidate_and_no_single_turn_is_better() -> None:
    """Beyond ten labels the result is no worse than a sample, a nested set or a neighbour."""
    potentials = make_potentials(4, 14, unary=1.5, pairwise=0.8)
    known = draw_known(potentials, num_unknown=12)
    samples = draw(potentials, known, 100)
    marginals = samples.double().mean(0)
    states, value = maximise_expected_jaccard(samples, marginals, Admissible(known))
    for image in range(4):
        truth = brute.shares(samples[:, image])
        free = (known[image] == -1).nonzero().flatten().tolist()
        falling = sorted(range(14), key=lambda label: -float(marginals[image, label]))
        others = list(truth)
        others += [
            tuple(int(label in falling[:k]) for label in range(14))
            for k in range(int((known[image] == 1).sum()), 13)
        ]
        chosen = states[image].tolist()
        others += [
            tuple(1 - bit if at == label else bit for at, bit in enumerate(chosen))
            for label in free
        ]
        best = brute.best_expectation("jaccard", truth, others)
        assert float(value[image]) >= best - 1e-6


def test_single_turns_reach_beyond_the_candidates() -> None:
    """Some of the best sets were neither drawn, nor hold the highest marginals, nor are F1's."""
    made = make_potentials(40, 16, seed=3)
    potentials = Potentials(made.unary - 2, made.edges, 2 * made.pairwise)
    samples = draw(potentials, num_samples=30)
    marginals = samples.double().mean(0)
    counts = count_marginals_from_samples(samples)
    f1, _ = maximise_expected_f1(counts, empty_probability(counts))
    states, _ = maximise_expected_jaccard(samples, marginals)
    drawn = (states == samples).all(-1).any(0)
    order = marginals.argsort(stable=True, dim=1, descending=True)
    nested = (states == (order.argsort(1) < states.sum(1, keepdim=True))).all(1)
    assert int((drawn | nested | (states == f1).all(1)).sum()) < 40


@pytest.mark.parametrize("exhaustive_labels", [0, 10])
def test_jaccard_of_two_empty_sets_is_one(exhaustive_labels: int) -> None:
    """Where samples are empty more often than like any other set, so is the best set."""
    samples = torch.zeros(20, 3, 3, dtype=torch.uint8)
    samples[:8, 0, 0] = samples[:12, 1, 0] = 1
    samples[:8, 2, :2] = samples[8:11, 2, 2] = 1  # to turn one of two labels would not help
    states, value = maximise_expected_jaccard(
        samples, samples.double().mean(0), exhaustive_labels=exhaustive_labels
    )
    assert states.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert value.tolist() == pytest.approx([0.6, 0.6, 0.45])


def test_labels_that_no_sample_has_change_nothing() -> None:
    """The same few labels among a hundred others that never occur give the same sets."""
    potentials = make_potentials(5, 12, unary=1.5, pairwise=0.8)
    samples = draw(potentials)
    columns = torch.arange(12) * 8
    wide = torch.zeros(60, 5, 112, dtype=torch.uint8)
    wide[..., columns] = samples
    states, value = maximise_expected_jaccard(samples, samples.double().mean(0))
    others, same = maximise_expected_jaccard(wide, wide.double().mean(0))
    assert torch.equal(others[:, columns], states)
    assert int(others.sum()) == int(states.sum())
    assert torch.allclose(same, value)


def test_memory_is_bounded_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images are handled at once, the sets are the same."""
    potentials = make_potentials(7, 12, unary=1.5, pairwise=0.8)
    known = draw_known(potentials, num_unknown=9)
    samples = draw(potentials, known)
    allowed = Admissible(known, Rules(), 2, 5)
    together = maximise_expected_jaccard(samples, samples.double().mean(0), allowed)
    monkeypatch.setattr("mlcrf.decoding.expected_jaccard._ENTRIES", 1)
    alone = maximise_expected_jaccard(samples, samples.double().mean(0), allowed)
    assert torch.equal(together[0], alone[0])
    assert torch.allclose(together[1], alone[1])


def test_no_image() -> None:
    """No image gives no set."""
    empty = torch.zeros(5, 0, 12, dtype=torch.uint8)
    states, value = maximise_expected_jaccard(empty, torch.zeros(0, 12))
    assert (states.shape, value.shape) == ((0, 12), (0,))
