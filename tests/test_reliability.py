"""Reliability of labels, pairs and sets: against all states, and without what is unknown."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from mlcrf.inference import Exact, Independent
from mlcrf.metrics import reliability
from mlcrf.metrics.curves import CALIBRATION_BINS
from mlcrf.reliability import measure_reliability
from tests.making import make_potentials
from tests.oracle import oracles


def test_equals_brute_force() -> None:
    """Mean probabilities, frequencies and the error, from a list of all states."""
    potentials = make_potentials(30, 4, unary=2, pairwise=1)
    targets = torch.randint(0, 2, (30, 4), generator=torch.Generator().manual_seed(3))
    found = measure_reliability(potentials, targets, Exact())
    said: dict[str, list[float]] = {"labels": [], "pairs": [], "sets": []}
    was: dict[str, list[bool]] = {"labels": [], "pairs": [], "sets": []}
    for one, row in zip(oracles(potentials), targets.tolist(), strict=True):
        truth = tuple(row)
        said["labels"] += one.marginals
        was["labels"] += [y == 1 for y in truth]
        for pair in combinations(range(4), 2):
            said["pairs"].append(one.probability(*pair))
            was["pairs"].append(truth[pair[0]] == truth[pair[1]] == 1)
        best, probability = max(one.probabilities.items(), key=lambda item: item[1])
        said["sets"].append(probability)
        was["sets"].append(best == truth)
    for kind, each in found.items():
        p, y = np.array(said[kind]), np.array(was[kind], dtype=float)
        assert each.count.sum() == len(p)
        assert each.mean_probability == pytest.approx(p.mean())
        assert each.mean_frequency == pytest.approx(y.mean())
        bins = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        gaps = [abs((p - y)[bins == b].sum()) for b in range(CALIBRATION_BINS)]
        assert each.error == pytest.approx(sum(gaps) / len(p))


def test_what_is_unknown_does_not_count() -> None:
    """A pair is absent as soon as one label is; a set counts only if all of it is known."""
    potentials = make_potentials(4, 3, pairwise=0)
    targets = torch.tensor([[1, 1, -1], [0, -1, -1], [-1, -1, -1], [1, 0, 1]])
    found = measure_reliability(potentials, targets, Independent())
    counts = {kind: int(each.count.sum()) for kind, each in found.items()}
    assert counts == {"labels": 6, "pairs": 1 + 2 + 0 + 3, "sets": 1}
    assert found["pairs"].mean_frequency == pytest.approx(2 / 6)


def test_nothing_known_has_no_reliability() -> None:
    empty = reliability(np.array([0.3]), np.array([-1], dtype=np.int8))
    assert math.isnan(empty.error) and math.isnan(empty.mean_probability)


def test_pairs_of_many_labels_are_left_out() -> None:
    potentials = make_potentials(2, 65, pairwise=0)
    found = measure_reliability(potentials, torch.ones(2, 65), Independent())
    assert set(found) == {"labels", "sets"}
