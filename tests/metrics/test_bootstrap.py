"""The bootstrap of a difference: paired, repeatable, and about the figures themselves."""

import dataclasses
from dataclasses import fields

import numpy as np
import pytest
from scipy.stats import norm

from mlcrf.metrics import (
    Measures,
    Predictions,
    Statistics,
    bootstrap_differences,
    gather_statistics,
)
from tests.metrics.test_scores import make_predictions

NAMES = [field.name for field in fields(Measures)]


def make_two_models(num_images: int = 80) -> tuple[Statistics, Statistics]:
    """Two sets of predictions of the same images, the second noisier."""
    predictions, targets = make_predictions(num_images)
    rng = np.random.default_rng(7)
    noisy = np.clip(predictions.marginals + 0.3 * rng.normal(size=targets.shape), 0, 1)
    worse = dataclasses.replace(
        predictions, marginals=noisy, nll=predictions.nll + rng.normal(size=num_images)
    )
    return gather_statistics(predictions, targets), gather_statistics(worse, targets)


def test_the_value_is_the_difference_and_lies_in_its_interval() -> None:
    """Every measure is there, ours minus theirs, between low and high."""
    ours, theirs = make_two_models()
    told: list[tuple[int, int]] = []
    differences = bootstrap_differences(
        ours, theirs, resamples=200, progress=lambda *of: told.append(of)
    )
    assert list(differences) == NAMES
    assert told == [(number, 200) for number in range(2, 201, 2)]
    mine, other = ours.measures(), theirs.measures()
    for name, (value, low, high) in differences.items():
        assert value == getattr(mine, name) - getattr(other, name)
        assert low <= value <= high
    assert differences["hamming"][2] < 0 < differences["micro_f1"][1]  # clearly better


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """For a plain mean, normal theory gives its ends within the error of the resampling."""
    ours, theirs = make_two_models(200)
    changed = np.random.default_rng(1).normal(size=200)
    theirs = dataclasses.replace(theirs, nll=ours.nll + changed)
    value, low, high = bootstrap_differences(ours, theirs, resamples=2000)["nll"]
    half_width = norm.ppf(0.975) * changed.std() / np.sqrt(200)
    assert value == pytest.approx(-changed.mean())
    assert low == pytest.approx(value - half_width, abs=0.15 * half_width)
    assert high == pytest.approx(value + half_width, abs=0.15 * half_width)


def test_both_models_are_on_the_same_resample() -> None:
    """A difference that is the same on every image has an interval of no width."""
    ours, _ = make_two_models()
    theirs = dataclasses.replace(ours, nll=ours.nll + 0.25)
    value, low, high = bootstrap_differences(ours, theirs, resamples=50)["nll"]
    assert (value, low, high) == pytest.approx((-0.25, -0.25, -0.25))


def test_identical_models_differ_by_nothing() -> None:
    """Every difference and both ends of its interval are exactly zero."""
    ours, _ = make_two_models()
    differences = bootstrap_differences(ours, ours, resamples=20)
    assert differences == dict.fromkeys(NAMES, (0, 0, 0))


def test_labels_found_in_one_image_each() -> None:
    """Half of the resamples lack such an image; the interval is still about the value."""
    targets = np.eye(40, dtype=np.int8)
    flat = Predictions(np.full((40, 40), 0.1), np.zeros((40, 40), np.int64), np.zeros(40))
    best = np.eye(40, dtype=np.int64)
    ours, theirs = (
        gather_statistics(dataclasses.replace(flat, best=one), targets)
        for one in (best, np.roll(best, 1, axis=1))
    )
    differences = bootstrap_differences(ours, theirs, resamples=100)
    value, low, high = differences["labels_found_at_k"]
    assert value == 40
    assert 30 < low < 40 < high < 50
    assert differences["f1_at_k"] == (1, 1, 1)


def test_as_many_labels_found_is_no_difference() -> None:
    """Few resamples lack all five images in which one model finds a label: that moves nothing."""
    targets = np.ones((30, 1), dtype=np.int8)
    best = np.ones((30, 1), dtype=np.int64)
    flat = Predictions(np.full((30, 1), 0.5), best, np.zeros(30), best=best)
    fewer = np.where(np.arange(30)[:, None] < 5, best, 0)
    ours, theirs = (
        gather_statistics(dataclasses.replace(flat, best=one), targets) for one in (fewer, best)
    )
    assert bootstrap_differences(ours, theirs, resamples=1000)["labels_found_at_k"] == (0, 0, 0)


def test_resamples_without_a_positive_have_no_recall() -> None:
    """Some of two images, of which one has the label: the others still give an interval."""
    targets = np.array([[1, 0], [0, 0]], dtype=np.int8)
    right, wrong = np.array([[1, 0], [1, 0]]), np.array([[0, 1], [0, 1]])
    ours, theirs = (
        gather_statistics(Predictions(0.5 * targets, one, np.zeros(2), best=one), targets)
        for one in (right, wrong)
    )
    assert bootstrap_differences(ours, theirs, resamples=50)["recall_at_k"] == (1, 1, 1)


def test_same_seed_same_numbers() -> None:
    """The seed alone decides; another one gives other intervals around the same values."""
    ours, theirs = make_two_models()
    once = bootstrap_differences(ours, theirs, resamples=30, seed=3)
    np.random.seed(5)  # must have no say
    assert bootstrap_differences(ours, theirs, resamples=30, seed=3) == once
    other = bootstrap_differences(ours, theirs, resamples=30, seed=4)
    assert [one[0] for one in other.values()] == [one[0] for one in once.values()]
    assert other["nll"] != once["nll"]
