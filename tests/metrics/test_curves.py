"""Curves against scikit-learn, and in agreement with the measures that sum them up."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mlcrf.metrics import gather_statistics, precision_recall, reliability
from tests.metrics.test_scores import make_predictions


@pytest.mark.parametrize("ties", [False, True])
def test_precision_at_each_recall_is_scikit_learns(ties: bool) -> None:
    """At a recall, the precision of the shortest ranking that reaches it."""
    predictions, targets = make_predictions(ties=ties)
    scores, truth = predictions.marginals[:, 0], targets[:, 0]
    curve = precision_recall(scores, truth, points=40)
    assert curve is not None
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    for point, wanted in enumerate(np.arange(1, 41) / 40):
        shortest = np.flatnonzero(recall >= wanted - 1e-9)[-1]
        assert curve.recall[point] == pytest.approx(recall[shortest])
        assert curve.precision[point] == pytest.approx(precision[shortest])
    assert curve.recall[-1] == 1


def test_labels_pooled_are_one_ranking() -> None:
    """All labels together are as many images of one label; what is unknown is left out."""
    predictions, targets = make_predictions()
    targets[::3, 1] = -1
    together = precision_recall(predictions.marginals, targets)
    known = targets >= 0
    alone = precision_recall(predictions.marginals[known], targets[known])
    assert together is not None and alone is not None
    assert np.array_equal(together.precision, alone.precision)


@pytest.mark.parametrize("value", [0, -1])
def test_without_a_positive_there_is_no_curve(value: int) -> None:
    """Absent throughout, or unknown throughout."""
    assert precision_recall(np.full(4, 0.5), np.full(4, value, dtype=np.int8)) is None


def test_gaps_of_the_bins_add_up_to_the_calibration_error() -> None:
    """The plot and the figure are of the same bins; empty ones have neither."""
    predictions, targets = make_predictions()
    targets[5:9] = -1
    bins = reliability(predictions.marginals, targets)
    assert bins.count.sum() == (targets >= 0).sum()
    gaps = np.nansum(bins.count * np.abs(bins.probability - bins.frequency)) / bins.count.sum()
    error = gather_statistics(predictions, targets).measures().calibration_error
    assert gaps == pytest.approx(error)
    empty = reliability(np.full((3, 1), 0.99), np.ones((3, 1), dtype=np.int8))
    assert empty.count.tolist() == [0] * 14 + [3] and np.isnan(empty.frequency[:14]).all()
