"""Measures against scikit-learn and torchmetrics, then what these leave open."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as sk
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multilabel_average_precision,
    multilabel_coverage_error,
    multilabel_exact_match,
    multilabel_f1_score,
    multilabel_hamming_distance,
    multilabel_precision,
    multilabel_ranking_average_precision,
    multilabel_ranking_loss,
    multilabel_recall,
)

from mlcrf.errors import ProbabilitiesError
from mlcrf.metrics import (
    Measures,
    Predictions,
    Statistics,
    Unknown,
    bootstrap_differences,
    gather_statistics,
    reliability,
)
from mlcrf.metrics.measures import MEASURES
from mlcrf.metrics.scoring import rank_labels

Targets = NDArray[np.int8]


def make_predictions(
    num_images: int = 60, num_labels: int = 4, *, ties: bool = False, seed: int = 0
) -> tuple[Predictions, Targets]:
    """Predictions that know something of the targets, with 2 best and costs.

    If ties, in steps of 0.1 off 0.5.
    """
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_labels)) < 0.3).astype(np.int8)
    marginals = np.clip(0.3 * targets + 0.7 * rng.random(targets.shape), 0, 1)
    if ties:
        marginals = np.floor(marginals * 10) / 10 + 0.05
    likeliest = np.where(rng.random(targets.shape) < 0.9, targets, 1 - targets).astype(np.int64)
    best = np.zeros_like(likeliest)
    np.put_along_axis(best, np.argsort(-marginals)[:, :2], 1, axis=1)
    nll, costs = rng.exponential(size=num_images), rng.exponential(size=(3, num_labels))
    sure = rng.random(num_images)
    said = Predictions(marginals, likeliest, nll, best=best, costs=costs, set_probability=sure)
    return said, targets


def measures(predictions: Predictions, targets: Targets) -> Measures:
    return gather_statistics(predictions, targets).measures()


@pytest.mark.parametrize("ties", [False, True])
def test_against_scikit_learn(ties: bool) -> None:
    """Every measure that scikit-learn has is the same there, ties included."""
    predictions, targets = make_predictions(ties=ties)
    got = measures(predictions, targets)
    said = predictions.marginals > 0.5
    assert got.nll == pytest.approx(predictions.nll.mean())
    assert got.hamming == pytest.approx(sk.hamming_loss(targets, said))
    assert got.wrong_per_image == pytest.approx(4 * got.hamming)
    assert got.subset_accuracy == pytest.approx(sk.accuracy_score(targets, predictions.map_states))
    precision = sk.average_precision_score(targets, predictions.marginals, average="macro")
    assert got.mean_average_precision == pytest.approx(precision)
    assert got.labels_with_positives == 4
    assert got.micro_f1 == pytest.approx(sk.f1_score(targets, said, average="micro"))
    assert got.macro_f1 == pytest.approx(sk.f1_score(targets, said, average="macro"))
    assert got.chosen_accuracy == pytest.approx(sk.accuracy_score(targets, said))
    f1 = sk.f1_score(targets, said, average="samples", zero_division=1.0)
    assert got.example_f1 == pytest.approx(f1)
    jaccard = sk.jaccard_score(targets, said, average="samples", zero_division=1.0)
    assert got.example_jaccard == pytest.approx(jaccard)
    scores = predictions.marginals
    assert got.ranking_loss == pytest.approx(sk.label_ranking_loss(targets, scores))
    assert got.coverage_error == pytest.approx(sk.coverage_error(targets, scores))
    ranked = sk.label_ranking_average_precision_score(targets, scores)
    assert got.label_ranking_average_precision == pytest.approx(ranked)
    best = scores == scores.max(1, keepdims=True)
    assert got.one_error == pytest.approx(np.mean(1 - (best * targets).sum(1) / best.sum(1)))
    for kind, function in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        for average in ("micro", "macro"):
            wanted = function(targets, said, average=average)
            assert getattr(got, f"{average}_{kind}") == pytest.approx(wanted)
        each = function(targets, said, average="samples", zero_division=0.0)
        both_empty = np.mean(~said.any(1) & ~targets.any(1))
        assert getattr(got, f"example_{kind}") == pytest.approx(each + both_empty)
    means = sk.precision_score(targets, said, average=None).mean(), got.macro_recall
    assert got.f1_of_means == pytest.approx(2 / (1 / means[0] + 1 / means[1]))


@pytest.mark.parametrize("ties", [False, True])
def test_against_torchmetrics(ties: bool) -> None:
    """Torchmetrics agrees too, and has the calibration error that scikit-learn has not."""
    predictions, targets = make_predictions(ties=ties)
    got = measures(predictions, targets)
    scores, truth = torch.from_numpy(predictions.marginals), torch.from_numpy(targets.astype(int))
    best = torch.from_numpy(predictions.map_states)
    precision = multilabel_average_precision(scores, truth, num_labels=4)
    calibration = binary_calibration_error(scores.reshape(-1), truth.reshape(-1), n_bins=15)
    for value, wanted in (
        (got.hamming, multilabel_hamming_distance(scores, truth, num_labels=4)),
        (got.subset_accuracy, multilabel_exact_match(best, truth, num_labels=4)),
        (got.mean_average_precision, precision),
        (got.micro_f1, multilabel_f1_score(scores, truth, num_labels=4, average="micro")),
        (got.macro_f1, multilabel_f1_score(scores, truth, num_labels=4)),
        (got.calibration_error, calibration),
        (got.micro_precision, multilabel_precision(scores, truth, num_labels=4, average="micro")),
        (got.micro_recall, multilabel_recall(scores, truth, num_labels=4, average="micro")),
        (got.macro_precision, multilabel_precision(scores, truth, num_labels=4)),
        (got.macro_recall, multilabel_recall(scores, truth, num_labels=4)),
        (got.coverage_error, multilabel_coverage_error(scores, truth, num_labels=4)),
        (
            got.label_ranking_average_precision,
            multilabel_ranking_average_precision(scores, truth, num_labels=4),
        ),
    ):
        assert value == pytest.approx(float(wanted), abs=1e-6)
    if not ties:  # there it goes by the order of the labels
        wanted = multilabel_ranking_loss(scores, truth, num_labels=4)
        assert got.ranking_loss == pytest.approx(float(wanted), abs=1e-6)


def test_average_precision_of_each_label() -> None:
    """Label by label it is scikit-learn's; one without a positive has none."""
    predictions, targets = make_predictions(ties=True)
    targets[:, 2] = 0
    got = gather_statistics(predictions, targets).average_precisions()
    for label in (0, 1, 3):
        wanted = sk.average_precision_score(targets[:, label], predictions.marginals[:, label])
        assert got[label] == pytest.approx(wanted)
    assert math.isnan(got[2])


def test_average_precision_does_not_depend_on_the_order_of_ties() -> None:
    """All scores equal: the precision is the label's frequency, in whatever order images come."""
    targets = np.array([[1], [0], [0], [0]], dtype=np.int8)
    for order in (slice(None), slice(None, None, -1)):
        predictions = Predictions(np.full((4, 1), 0.2), np.zeros((4, 1), np.int64), np.zeros(4))
        assert measures(predictions, targets[order]).mean_average_precision == 0.25


def test_a_label_without_a_positive() -> None:
    """It is left out of the macro means and of their count, not out of the rest."""
    predictions, targets = make_predictions()
    targets[:, 1] = 0
    got = measures(predictions, targets)
    keep = [0, 2, 3]
    said = predictions.marginals > 0.5
    assert got.labels_with_positives == 3
    precision = sk.average_precision_score(targets[:, keep], predictions.marginals[:, keep])
    assert got.mean_average_precision == pytest.approx(precision)
    macro = sk.f1_score(targets[:, keep], said[:, keep], average="macro")
    assert got.macro_f1 == pytest.approx(macro)
    assert got.micro_f1 == pytest.approx(sk.f1_score(targets, said, average="micro"))


def test_a_label_that_is_never_predicted_has_an_f1_of_zero() -> None:
    """It counts in the macro mean."""
    targets = np.array([[1, 1], [0, 1]], dtype=np.int8)
    predictions = Predictions(
        np.array([[0.9, 0.1], [0.1, 0.2]]), np.zeros((2, 2), np.int64), np.zeros(2)
    )
    assert measures(predictions, targets).macro_f1 == 0.5


def test_unknown_targets_are_left_out() -> None:
    """Each measure is that of the known entries alone, whatever is said of the others."""
    predictions, targets = make_predictions()
    hidden = np.random.default_rng(1).random(targets.shape) < 0.3
    masked = np.where(hidden, -1, targets).astype(np.int8)
    assert (masked >= 0).any(1).all()
    got = measures(predictions, masked)
    said, known = predictions.marginals > 0.5, ~hidden
    scores = [predictions.marginals[known[:, i], i] for i in range(4)]
    truth = [targets[known[:, i], i] for i in range(4)]
    decided = [one > 0.5 for one in scores]
    wrong = (said != targets) & known
    assert got.hamming == pytest.approx(wrong.sum() / known.sum())
    assert got.wrong_per_image == pytest.approx(wrong.sum() / 60)
    right = ((predictions.map_states == targets) | hidden).all(1)
    assert got.subset_accuracy == pytest.approx(right.mean())
    each = [sk.average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)]
    assert got.mean_average_precision == pytest.approx(np.mean(each))
    each = [sk.f1_score(t, s) for t, s in zip(truth, decided, strict=True)]
    assert got.macro_f1 == pytest.approx(np.mean(each))
    micro = sk.f1_score(np.concatenate(truth), np.concatenate(decided))
    assert got.micro_f1 == pytest.approx(micro)
    micro = sk.precision_score(np.concatenate(truth), np.concatenate(decided))
    assert got.micro_precision == pytest.approx(micro)
    each = [sk.recall_score(t, s) for t, s in zip(truth, decided, strict=True)]
    assert got.macro_recall == pytest.approx(np.mean(each))
    ranked = zip(targets, predictions.marginals, known, strict=True)
    rows = [(t[k][None], s[k][None]) for t, s, k in ranked]
    each = [sk.label_ranking_loss(*one) if one[0].size > 1 else 0 for one in rows]
    assert got.ranking_loss == pytest.approx(np.mean(each))
    each = [sk.coverage_error(*one) if one[0].size > 1 else one[0].sum() for one in rows]
    assert got.coverage_error == pytest.approx(np.mean(each))
    each = [
        sk.label_ranking_average_precision_score(*one) if one[0].size > 1 else 1 for one in rows
    ]
    assert got.label_ranking_average_precision == pytest.approx(np.mean(each))
    flat = (torch.from_numpy(np.concatenate(one)) for one in (scores, truth))
    assert got.calibration_error == pytest.approx(float(binary_calibration_error(*flat)), abs=1e-6)
    other = dataclasses.replace(
        predictions,
        marginals=np.where(hidden, 1 - predictions.marginals, predictions.marginals),
        map_states=np.where(hidden, 1 - predictions.map_states, predictions.map_states),
    )
    assert dataclasses.astuple(measures(other, masked)) == pytest.approx(dataclasses.astuple(got))


def test_measures_at_k_by_hand() -> None:
    """Two best labels each: one label is never predicted, one has no positive, one is unknown once.

    label        a    b    c    d
    predicted    3    3    0    1    (of b, once where it is unknown)
    right        2    1    -    -
    positive     2    2    1    0
    """
    targets = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=np.int8)
    best = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    predictions = dataclasses.replace(make_predictions(4)[0], best=best)
    got = measures(predictions, targets)
    precision, recall = (2 / 3 + 1 / 2 + 0) / 3, (1 + 1 / 2 + 0) / 3
    assert got.precision_at_k == pytest.approx(precision)
    assert got.recall_at_k == pytest.approx(recall)
    assert got.f1_at_k == pytest.approx(2 * precision * recall / (precision + recall))
    assert got.labels_found_at_k == 2
    missed = dataclasses.replace(predictions, best=np.array([[0, 0, 0, 1]] * 4))
    got = measures(missed, targets)
    assert (got.precision_at_k, got.recall_at_k, got.f1_at_k, got.labels_found_at_k) == (0, 0, 0, 0)
    got = measures(predictions, np.zeros_like(targets))
    assert got.labels_found_at_k == 0
    assert all(map(math.isnan, (got.precision_at_k, got.recall_at_k, got.f1_at_k)))


def test_measures_at_k_against_scikit_learn() -> None:
    """Means of precision and recall by label, with a label of no positive left out of both."""
    predictions, targets = make_predictions(num_labels=6)
    targets[:, 3] = 0
    best, got = predictions.best, measures(predictions, targets)
    said = {"labels": [0, 1, 2, 4, 5], "average": "macro", "zero_division": 0.0}
    precision = sk.precision_score(targets, best, **said)
    recall = sk.recall_score(targets, best, **said)
    assert got.precision_at_k == pytest.approx(precision)
    assert got.recall_at_k == pytest.approx(recall)
    assert got.f1_at_k == pytest.approx(2 * precision * recall / (precision + recall))
    found = sk.recall_score(targets, best, average=None, zero_division=0.0) > 0
    assert got.labels_found_at_k == found.sum()
    assert got.micro_precision_at_k == pytest.approx(targets[best == 1].mean())
    assert got.micro_recall_at_k == pytest.approx(best[targets == 1].mean())
    assert got.micro_f1_at_k == pytest.approx(sk.f1_score(targets, best, average="micro"))


def test_rankings_by_hand() -> None:
    """Ties count as wrong, but for the one-error, which is what a draw among the best would err."""
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [-1, 0, 1]], dtype=np.int8)
    scores = np.array(
        [[0.7, 0.7, 0.1], [0.9, 0.2, 0.5], [0.3, 0.2, 0.1], [0.4, 0.4, 0.1], [0.9, 0.1, 0.6]]
    )
    got = rank_labels(scores, targets)
    assert {name: values.tolist() for name, values in got.items()} == {
        "ranking_loss": [0.5, 1, 0, 0, 0],
        "coverage_error": [2, 3, 0, 3, 1],
        "label_ranking_average_precision": [0.5, pytest.approx(1 / 3), 1, 1, 1],
        "one_error": [0.5, 1, 1, 0, 0],
    }


def test_nothing_there_and_nothing_said() -> None:
    """Two empty label sets agree: F1 is 1, and what is over positives is not a number."""
    nothing = np.zeros((3, 2))
    got = measures(
        Predictions(nothing, nothing.astype(np.int64), np.zeros(3)), nothing.astype("i1")
    )
    assert (got.micro_f1, got.subset_accuracy, got.hamming) == (1, 1, 0)
    assert got.labels_with_positives == 0
    assert math.isnan(got.mean_average_precision)
    assert math.isnan(got.macro_f1)


def test_one_image() -> None:
    """A single image has measures: here one label of three is wrong and the set with it."""
    predictions = Predictions(np.array([[0.9, 0.6, 0.2]]), np.array([[1, 1, 0]]), np.array([1.5]))
    got = measures(predictions, np.array([[1, 0, 0]], dtype=np.int8))
    assert got == Measures(
        nll=1.5,
        hamming=pytest.approx(1 / 3),
        wrong_per_image=1.0,
        subset_accuracy=0.0,
        chosen_accuracy=0.0,
        example_f1=pytest.approx(2 / 3),
        example_jaccard=0.5,
        mean_average_precision=1.0,
        labels_with_positives=1,
        micro_f1=pytest.approx(2 / 3),
        macro_f1=1.0,
        calibration_error=pytest.approx((0.1 + 0.6 + 0.2) / 3),
        macro_precision=1.0,
        macro_recall=1.0,
        f1_of_means=1.0,
        micro_precision=0.5,
        micro_recall=1.0,
        example_precision=0.5,
        example_recall=1.0,
        ranking_loss=0.0,
        coverage_error=1.0,
        label_ranking_average_precision=1.0,
        one_error=0.0,
    )


def test_calibration_error_of_sets() -> None:
    """The gap of probability and frequency in a bin, weighted by its size; labels do not matter."""
    truth = np.array([[1, 0], [0, 1], [1, 1], [0, -1]], dtype=np.int8)
    said = np.array([[1, 0], [1, 1], [1, 1], [0, 1]])  # wrong in the second
    given = np.array([0.5, 0.5, 0.9, 0.9])
    predictions = Predictions(np.full((4, 2), 0.5), said, np.zeros(4), set_probability=given)
    got = measures(predictions, truth)
    assert got.set_calibration_error == pytest.approx((0 + 0.2) / 4)
    assert measures(dataclasses.replace(predictions, set_probability=None), truth) == (
        dataclasses.replace(got, set_calibration_error=None)
    )


def test_images_of_which_nothing_is_known_are_left_out() -> None:
    """They change no measure, and no interval, whatever is said of them."""
    predictions, targets = make_predictions()
    targets = targets.astype(np.int8)
    unknown = np.arange(len(targets)) % 5 == 0
    targets[unknown] = -1
    whole = gather_statistics(predictions, targets)
    rest = gather_statistics(predictions.rows(~unknown), targets[~unknown])
    assert dataclasses.astuple(whole.measures()) == dataclasses.astuple(rest.measures())
    other = dataclasses.replace(
        predictions,
        marginals=np.where(unknown[:, None], 0.9, predictions.marginals),
        nll=np.where(unknown, 7.0, predictions.nll),
        best=np.where(unknown[:, None], 1, predictions.best),
    )
    changed = gather_statistics(other, targets)
    assert dataclasses.astuple(changed.measures()) == dataclasses.astuple(rest.measures())
    theirs = gather_statistics(dataclasses.replace(predictions, nll=predictions.nll + 1), targets)
    interval = bootstrap_differences(theirs, whole, resamples=20)["nll"]
    assert interval == pytest.approx((1, 1, 1))
    nothing = Unknown.of(targets)
    assert (nothing.labels, nothing.images) == ((targets < 0).sum(), unknown.sum())
    assert nothing.signature == {"unknown": nothing.labels}
    assert not Unknown.of(targets[~unknown]).signature


def test_what_is_said_of_unknown_targets_does_not_count() -> None:
    """Not by marginals, most probable sets, decisions or the best labels; only the nll is given."""
    predictions, targets = make_predictions()
    chosen, best = (predictions.marginals > 0.3).astype(np.int64), predictions.best
    assert best is not None
    costs = np.array([[1.0], [2.0], [0.5]]) * np.ones(4)
    predictions = dataclasses.replace(predictions, chosen=chosen, costs=costs)
    hidden = np.random.default_rng(4).random(targets.shape) < 0.4
    masked = np.where(hidden, -1, targets).astype(np.int8)
    other = dataclasses.replace(
        predictions,
        marginals=np.where(hidden, 1 - predictions.marginals, predictions.marginals),
        map_states=np.where(hidden, 1 - predictions.map_states, predictions.map_states),
        chosen=np.where(hidden, 1 - chosen, chosen),
        best=np.where(hidden, 1 - best, best),
    )
    wanted = dataclasses.asdict(measures(predictions, masked))
    assert all(value is not None for value in wanted.values())
    assert dataclasses.asdict(measures(other, masked)) == pytest.approx(wanted)


def test_two_empty_sets_agree() -> None:
    """Nothing said of a photo with nothing on it is right; of one with a label it is all wrong."""
    nothing = np.zeros((2, 3))
    predictions = Predictions(nothing, nothing.astype(np.int64), np.zeros(2))
    got = measures(predictions, np.array([[0, 0, 0], [0, 1, 0]], dtype=np.int8))
    assert (got.example_f1, got.example_jaccard, got.chosen_accuracy) == (0.5, 0.5, 0.5)


def test_half_is_no_yes() -> None:
    """A marginal of exactly 0.5 is not a prediction of the label, as in torchmetrics."""
    predictions = Predictions(np.array([[0.5]]), np.array([[0]]), np.zeros(1))
    assert measures(predictions, np.array([[0]], dtype=np.int8)).hamming == 0


def test_certainty_is_in_the_last_bin() -> None:
    """Probabilities of 0 and of 1 have a bin; right they cost nothing, wrong everything."""
    marginals = np.array([[0.0, 1.0]])
    predictions = Predictions(marginals, marginals.astype(np.int64), np.zeros(1))
    assert measures(predictions, np.array([[0, 1]], dtype=np.int8)).calibration_error == 0
    assert measures(predictions, np.array([[1, 0]], dtype=np.int8)).calibration_error == 1


@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repeated_images(ties: bool) -> None:
    """Counting an image n times is having it n times, none at all included."""
    predictions, targets = make_predictions(ties=ties)
    targets[np.random.default_rng(2).random(targets.shape) < 0.2] = -1
    counts = np.random.default_rng(3).integers(0, 4, size=60)
    repeated = np.repeat(np.arange(60), counts)
    arrays = (getattr(predictions, name) for name in ("marginals", "map_states", "nll"))
    assert predictions.best is not None and predictions.set_probability is not None
    more = {
        "best": predictions.best[repeated],
        "costs": predictions.costs,
        "set_probability": predictions.set_probability[repeated],
    }
    again = Predictions(*(one[repeated] for one in arrays), **more)
    weighted = gather_statistics(predictions, targets).measures(counts.astype(np.float64))
    wanted = measures(again, targets[repeated])
    assert dataclasses.astuple(weighted) == pytest.approx(dataclasses.astuple(wanted), rel=1e-12)


def test_a_label_whose_positives_weigh_nothing() -> None:
    """A resample without any positive of a label leaves it out, as if it had none."""
    predictions, targets = make_predictions(num_labels=2)
    weights = np.where(targets[:, 1] == 1, 0.0, 1.0)
    got = gather_statistics(predictions, targets).measures(weights)
    assert got.labels_with_positives == 1
    kept = weights > 0
    wanted = sk.average_precision_score(targets[kept, 0], predictions.marginals[kept, 0])
    assert got.mean_average_precision == pytest.approx(wanted)


def test_costs_by_hand() -> None:
    """Each wrong label has its cost, and each open one; a label that is unknown costs nothing."""
    marginals = np.array([[0.9, 0.2, 0.5], [0.3, 0.6, 0.1]])
    targets = np.array([[0, 1, 1], [1, -1, 0]], dtype=np.int8)
    chosen = np.array([[1, 0, -1], [0, -1, 0]])
    costs = np.array([[2.0, 3.0, 5.0], [7.0, 11.0, 13.0], [math.inf, 0.25, 0.5]])
    got = measures(
        Predictions(marginals, chosen.clip(0), np.zeros(2), chosen, costs=costs), targets
    )
    assert got.cost == pytest.approx((2 + 11 + 0.5 + 7) / 2)
    expected = [0.1 * 2 + 0.2 * 11 + 0.5, 0.3 * 7 + 0.1 * 13]
    assert got.expected_cost == pytest.approx(sum(expected) / 2)
    assert got.open_labels == 1
    assert got.wrong_per_image == (3 + 1) / 2  # an open label is one that is not chosen
    plain = measures(Predictions(marginals, chosen.clip(0), np.zeros(2), chosen), targets)
    assert (plain.cost, plain.expected_cost, plain.open_labels) == (None, None, None)


def empty() -> Statistics:
    nothing = np.zeros((0, 2))
    return gather_statistics(
        Predictions(nothing, nothing.astype(np.int64), np.zeros(0)), nothing.astype(np.int8)
    )


def test_no_image_at_all() -> None:
    """Means over nothing are not numbers, and none of them is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = empty().measures()
    assert got.labels_with_positives == 0
    for value in (got.nll, got.hamming, got.subset_accuracy, got.mean_average_precision):
        assert math.isnan(value)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_probability_is_not_scored(value: float) -> None:
    """NaN would pass as an absent label well predicted, -0.1 would be left out of calibration."""
    marginals = np.array([[0.5, 1 + 1e-7], [value, 0.0]])
    broken = Predictions(marginals, np.zeros((2, 2), np.int64), np.zeros(2))
    targets = np.zeros((2, 2), dtype=np.int8)
    with pytest.raises(ProbabilitiesError, match=f"from 0 to 1, got {value:g}"):
        measures(broken, targets)
    with pytest.raises(ProbabilitiesError, match=f"from 0 to 1, got {value:g}"):
        reliability(marginals, targets)


def test_values_are_shown_in_the_unit_of_their_title() -> None:
    """Shares as per cent, nats and counts as they are, differences with their sign."""
    shown = {name: MEASURES[name].format(0.12345) for name in ("nll", "hamming", "micro_f1")}
    assert shown == {"nll": "0.123", "hamming": "12.35", "micro_f1": "12.35"}
    assert MEASURES["hamming"].format(0.001, signed=True) == "+0.10"
    assert MEASURES["nll"].format(-0.001, signed=True) == "-0.001"
    for measure in MEASURES.values():
        assert (measure.factor == 100) == measure.title.endswith(("%", "% (MAP)")), measure.title
