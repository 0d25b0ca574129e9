"""Tuned thresholds are the best of all, as trying every one shows."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from mlcrf.decoding import tune_label_thresholds, tune_threshold
from mlcrf.errors import ProbabilitiesError

Rows = list[list[float]]


def draw(
    num_images: int, num_labels: int, *, seed: int, ties: bool = False, unknown: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Marginals and targets that go with them, some unknown, the last label without a positive."""
    generator = torch.Generator().manual_seed(seed)
    marginals = torch.rand(num_images, num_labels, generator=generator, dtype=torch.float64)
    if ties:
        marginals = (marginals * 5).round() / 5  # 0 and 1 among them
    noise = torch.rand(num_images, num_labels, generator=generator, dtype=torch.float64)
    targets = (noise < marginals**2).long()
    targets[torch.rand(num_images, num_labels, generator=generator) < unknown] = -1
    if num_labels > 1:
        targets[:, -1] = targets[:, -1].clamp(max=0)
    return marginals, targets


def f1(pairs: list[tuple[bool, bool]]) -> float:
    both, size = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
    return 2 * both / size if size else 1.0


def micro_f1(marginals: Tensor, targets: Tensor, threshold: float) -> float:
    """One pair of decision and truth after the other, in plain Python."""
    entries = zip(marginals.flatten().tolist(), targets.flatten().tolist(), strict=True)
    return f1([(p > threshold, bool(y)) for p, y in entries if y >= 0])


def macro_f1(marginals: Tensor, targets: Tensor, thresholds: list[float]) -> float:
    """The mean over labels that have a positive."""
    present = [label for label in range(targets.shape[1]) if bool((targets[:, label] == 1).any())]
    values = [micro_f1(marginals[:, one], targets[:, one], thresholds[one]) for one in present]
    return sum(values) / len(values)


def candidates(marginals: Tensor, targets: Tensor) -> list[float]:
    """The middle between each two neighbours, 0 and 1 among them, and 0.5."""
    known = {p for p, y in zip(marginals.tolist(), targets.tolist(), strict=True) if y >= 0}
    values = sorted({0.0, 1.0, *known})
    return [0.5, 1.0, *((low + high) / 2 for low, high in pairwise(values))]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(12, 1), (1, 6), (15, 4)])
def test_one_threshold_equals_brute_force(shape: tuple[int, int], ties: bool) -> None:
    """No middle between two marginals does better, and no equal one is nearer to 0.5."""
    for seed in range(8):
        marginals, targets = draw(*shape, seed=seed, ties=ties)
        if not bool((targets == 1).any()):
            continue
        tuned = tune_threshold(marginals, targets)
        values = {
            t: micro_f1(marginals, targets, t)
            for t in candidates(marginals.flatten(), targets.flatten())
        }
        best = max(values.values())
        assert micro_f1(marginals, targets, tuned) == pytest.approx(best)
        nearest = min(abs(t - 0.5) for t, value in values.items() if value > best - 1e-9)
        assert abs(tuned - 0.5) == pytest.approx(nearest, abs=1e-15)


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_by_label_equal_brute_force(ties: bool) -> None:
    """No combination of thresholds does better; a label without a positive keeps 0.5."""
    for seed in range(6):
        marginals, targets = draw(6, 3, seed=seed, ties=ties)
        tuned = tune_label_thresholds(marginals, targets)
        has_positive = (targets == 1).any(0).tolist()
        choices = [
            candidates(marginals[:, label], targets[:, label]) if has_positive[label] else [0.5]
            for label in range(3)
        ]
        assert all(t == 0.5 for t, has in zip(tuned, has_positive, strict=True) if not has)
        best = max(
            macro_f1(marginals, targets, list(thresholds)) for thresholds in product(*choices)
        )
        assert macro_f1(marginals, targets, list(tuned)) == pytest.approx(best)


def test_a_threshold_that_is_right_already_stays() -> None:
    """Where 0.5 is as good as any other it is kept."""
    marginals = torch.tensor([[0.1, 0.9], [0.8, 0.3]])
    targets = torch.tensor([[0, 1], [1, 0]])
    assert tune_threshold(marginals, targets) == 0.5
    assert tune_label_thresholds(marginals, targets) == (0.5, 0.5)


@pytest.mark.parametrize("value", [0, -1])
def test_without_a_positive_nothing_is_tuned(value: int) -> None:
    """With no positive, nothing known or no image at all, 0.5 stays."""
    marginals = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.full((5, 3), value)
    assert tune_threshold(marginals, targets) == 0.5
    assert tune_label_thresholds(marginals, targets) == (0.5, 0.5, 0.5)
    assert tune_threshold(marginals[:0], targets[:0]) == 0.5
    assert tune_label_thresholds(marginals[:0], targets[:0]) == (0.5, 0.5, 0.5)


def test_marginals_of_zero_and_one() -> None:
    """A threshold lies in [0, 1], and nothing takes a marginal of 0."""
    targets = torch.tensor([[1], [1], [1], [1], [0]])
    every = tune_threshold(torch.tensor([[1.0], [0.2], [0.2], [0.0], [0.0]]), targets)
    assert every == pytest.approx(0.1)
    top = tune_threshold(torch.tensor([[1.0], [0.9], [0.9], [0.9], [0.9]]), 1 - targets.flip(0))
    assert top == pytest.approx(0.95)


def test_neighbours_that_leave_no_room_between_them() -> None:
    """The lower of two marginals with no number between them is the threshold that parts them."""
    low = torch.tensor(0.3, dtype=torch.float64)
    marginals = torch.stack([low, torch.nextafter(low, torch.ones_like(low))])[:, None]
    for pair in (marginals, marginals + 0.4):
        tuned = tune_threshold(pair, torch.tensor([[0], [1]]))
        assert (pair > tuned).flatten().tolist() == [False, True]


def test_a_thousand_images() -> None:
    """On more data and in single precision the sweep still finds what a fine grid finds."""
    marginals, targets = draw(1000, 8, seed=0)
    tuned = tune_threshold(marginals.float(), targets)
    values = [micro_f1(marginals, targets, t / 20) for t in range(21)]
    assert micro_f1(marginals.float(), targets, tuned) >= max(values) - 1e-9


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(value: float) -> None:
    """A threshold between such values would mean nothing; nor would one of another shape."""
    with pytest.raises(ProbabilitiesError, match=f"from 0 to 1, got {value:g}"):
        tune_threshold(torch.tensor([[0.5], [value]]), torch.tensor([[0], [1]]))
    with pytest.raises(ProbabilitiesError, match=r"expected \(N, L\) of both"):
        tune_threshold(torch.tensor([[0.5]]), torch.tensor([[0], [1]]))
