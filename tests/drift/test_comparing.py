"""Drift is found where there is one, of the right kind, and falsely as seldom as promised."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlcrf.drift import Quantity, Sample, Score, compare_samples
from mlcrf.drift.comparing import holm
from mlcrf.drift.permutation import compare_means
from mlcrf.drift.scores import MOST_PAIRS, statistics_of
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact
from mlcrf.labels import UNKNOWN, LabelSpace
from tests.making import make_potentials

LABELS = LabelSpace(tuple("abcde"))
SPLITS = 200
MARGIN = 3 * math.sqrt(0.05 * 0.95 / SPLITS)  # three standard errors of the share


def drawn(images: int, seed: int, *, tilt: float = 0.0, coupled: bool = True) -> Sample:
    """Images of a CRF of five labels, with targets drawn from it.

    Args:
        tilt: added to the unaries of the images.
        coupled: if not, each label is drawn by its marginal alone: only pairs change.
    """
    rng = np.random.default_rng(seed)
    crf = make_potentials(1, 5, unary=1.0, pairwise=1.2, seed=0)
    unary = crf.unary + torch.from_numpy(rng.normal(tilt, 1, (images, 5)))
    potentials = replace(crf, unary=unary)
    states = np.array(list(itertools.product((0, 1), repeat=5)))
    repeated = torch.from_numpy(states).repeat(images, 1)
    rows = torch.arange(images).repeat_interleave(len(states))
    log_score = potentials.rows(rows).log_score(repeated).reshape(images, -1).double()
    log_p = log_score.log_softmax(1).numpy()
    p = np.exp(log_p)
    marginals = p @ states
    if coupled:
        at = (p.cumsum(1) < rng.random((images, 1))).sum(1).clip(max=len(states) - 1)
        targets = states[at]
    else:
        targets = (rng.random(marginals.shape) < marginals).astype(np.int64)
        at = (targets * 2 ** np.arange(4, -1, -1)).sum(1)
    assert (states[at] == targets).all()
    surprise = -log_p[np.arange(images), at]
    return Sample(marginals, targets.astype(np.int8), surprise, -log_p.max(1))


def reported(reference: Sample, new: Sample, *, with_targets: bool = True) -> set[Score]:
    verdicts = compare_samples(
        reference, new, LABELS, with_targets=with_targets, permutations=199, rate=0.05
    )
    return {one.score for one in verdicts if one.found}


@pytest.mark.parametrize("with_targets", [False, True])
def test_false_alarms_are_as_seldom_as_promised(with_targets: bool) -> None:
    """Over many draws without a drift, of any score and of each; p-values are not too large."""
    alarms, small = 0, dict.fromkeys(Score, 0)
    for seed in range(SPLITS):
        both = drawn(60, 2 * seed), drawn(40, 2 * seed + 1)
        verdicts = compare_samples(
            *both, LABELS, with_targets=with_targets, permutations=79, rate=0.05, seed=seed
        )
        alarms += any(one.found for one in verdicts)
        for one in verdicts:
            small[one.score] += one.p_value <= 0.2
    assert alarms / SPLITS <= 0.05 + MARGIN
    for count in small.values():
        assert abs(count / SPLITS - 0.2) <= 3 * math.sqrt(0.2 * 0.8 / SPLITS)


def test_a_drift_of_pairs_alone() -> None:
    """Labels drawn without their couplings: pairs and label sets see it, single labels do not."""
    reference, new = drawn(1000, 1), drawn(1000, 2, coupled=False)
    assert reported(reference, new) == {Score.PAIRS, Score.JOINT}
    assert reported(reference, new, with_targets=False) == set()
    verdicts = compare_samples(reference, new, LABELS, with_targets=True, permutations=199)
    by_score = {one.score: one for one in verdicts}
    first = by_score[Score.PAIRS].findings[0]
    assert len(first.labels) == 2 and first.p_value == by_score[Score.PAIRS].p_value == 1 / 200
    gain = next(one for one in by_score[Score.JOINT].findings if one.quantity == Quantity.GAIN)
    assert gain.labels == () and gain.here < 0 < gain.reference and gain.p_value == 1 / 200


def test_a_drift_of_images() -> None:
    """Other unaries are seen without any label, and the largest difference is named."""
    reference, new = drawn(600, 1), drawn(600, 2, tilt=0.5)
    assert Score.LABELS in reported(reference, new, with_targets=False)
    assert Score.LABELS in reported(reference, new)
    (labels, *_) = compare_samples(reference, new, LABELS, with_targets=False, permutations=199)
    first = labels.findings[0]
    column = LABELS.index(first.labels[0])
    if first.quantity is Quantity.PROBABILITY:
        assert first.reference == pytest.approx(reference.marginals[:, column].mean())
        assert first.here == pytest.approx(new.marginals[:, column].mean())
    standardised = [abs(one.standardised) for one in labels.findings]
    assert standardised == sorted(standardised, reverse=True)
    assert first.standardised * (first.here - first.reference) > 0


def test_unknown_targets_are_left_out() -> None:
    """Half of them unknown, a drift of pairs is still found; sets count only whole images."""
    reference, new = drawn(1500, 1), drawn(1500, 2, coupled=False)
    rng = np.random.default_rng(0)
    samples = []
    for one in (reference, new):
        targets, surprise = one.targets.copy(), one.surprise
        assert surprise is not None
        targets[rng.random(targets.shape) < 0.3] = UNKNOWN
        whole = (targets != UNKNOWN).all(1)
        samples.append(replace(one, targets=targets, surprise=np.where(whole, surprise, np.nan)))
    assert reported(*samples) == {Score.PAIRS, Score.JOINT}
    found = statistics_of(*samples, with_targets=True)
    frequency = next(one for one in found[Score.LABELS] if one.quantity is Quantity.FREQUENCY)
    assert np.isnan(frequency.values).any()
    together = next(one for one in found[Score.PAIRS] if one.quantity is Quantity.TOGETHER)
    assert np.nanmean(together.values[:1500], 0) == pytest.approx(
        _covariances(samples[0].targets, np.concatenate([one.targets for one in samples]))
    )
    excess = next(one for one in found[Score.PAIRS] if one.quantity is Quantity.EXCESS_TOGETHER)
    rest = np.where(samples[0].targets < 0, np.nan, samples[0].targets) - samples[0].marginals
    at = list(excess.labels).index((1, 3))
    assert excess.values[:1500, at] == pytest.approx(rest[:, 1] * rest[:, 3], nan_ok=True)
    plain = (replace(one, surprise=None, likeliest=None) for one in samples)
    assert Score.JOINT not in statistics_of(*plain, with_targets=True)


def _covariances(targets: NDArray[np.int8], every: NDArray[np.int8]) -> list[float]:
    means = [every[every[:, i] >= 0, i].mean() for i in range(5)]
    found = []
    for i, j in itertools.combinations(range(5), 2):
        terms = [
            (row[i] - means[i]) * (row[j] - means[j])
            for row in targets.tolist()
            if row[i] >= 0 and row[j] >= 0
        ]
        found.append(math.fsum(terms) / len(terms))
    return found


def test_many_labels_have_their_likeliest_pairs() -> None:
    """At most so many, chosen by both samples alike."""
    rng = np.random.default_rng(0)
    p = rng.random((20, 40)) * rng.random(40)
    sample = Sample(p, np.zeros(p.shape, np.int8))
    for order in ((sample, sample), (replace(sample, marginals=p[::-1]), sample)):
        pairs = statistics_of(*order, with_targets=False)[Score.PAIRS][0].labels
        assert len(pairs) == MOST_PAIRS
        together = {(i, j): p[:, i] @ p[:, j] for i, j in itertools.combinations(range(40), 2)}
        wanted = sorted(together, key=lambda pair: -together[pair])[:MOST_PAIRS]
        assert set(pairs) == set(wanted)


def test_p_values_are_those_of_all_permutations() -> None:
    """Few units can be divided in all ways; random ones give the same share of larger maxima."""
    rng = np.random.default_rng(3)
    reference, new = rng.normal(size=(6, 2)), rng.normal(0.8, 1, size=(5, 2))
    pooled = np.concatenate([reference, new])
    spread = pooled.std(0)

    def largest(rows: list[int]) -> NDArray[np.float64]:
        is_new = np.isin(np.arange(11), rows)
        difference = pooled[is_new].mean(0) - pooled[~is_new].mean(0)
        found: NDArray[np.float64] = np.abs(difference / (spread * math.sqrt(1 / 5 + 1 / 6)))
        return found

    every = [largest(list(rows)).max() for rows in itertools.combinations(range(11), 5)]
    observed = largest([6, 7, 8, 9, 10])
    change = compare_means(reference, new, permutations=4999, seed=1)
    assert np.abs(change.standardised) == pytest.approx(observed, rel=1e-5)
    exact = [np.mean([one >= value * (1 - 1e-9) for one in every]) for value in observed]
    assert change.p_values == pytest.approx(exact, abs=0.025)
    assert change.p_value == change.p_values.min()
    assert (change.new - change.reference) == pytest.approx(new.mean(0) - reference.mean(0))
    again = compare_means(reference, new, permutations=4999, seed=1)
    assert np.array_equal(again.p_values, change.p_values)


def test_what_cannot_change_is_no_change() -> None:
    """A constant, a statistic that is never known, and none at all have p-values of 1."""
    rng = np.random.default_rng(0)
    values = np.stack([np.full(20, 0.3), np.full(20, np.nan), rng.normal(size=20)], 1)
    change = compare_means(values[:10], values[10:], permutations=99)
    assert change.p_values[:2].tolist() == [1, 1] and change.standardised[:2].tolist() == [0, 0]
    nothing = compare_means(values[:10, :0], values[10:, :0], permutations=99)
    assert nothing.p_value == 1 and nothing.p_values.shape == (0,)


def test_holm() -> None:
    """Stepwise: 1/3, 1/2 and all of the rate; none after the first that is too large."""
    labels, pairs, joint = Score
    assert holm({labels: 0.9, pairs: 0.016, joint: 0.02}, 0.05) == {pairs, joint}
    assert holm({labels: 0.04, pairs: 0.016, joint: 0.02}, 0.05) == {labels, pairs, joint}
    assert holm({labels: 0.04, pairs: 0.017, joint: 0.02}, 0.05) == set()
    assert holm({labels: 0.03, pairs: 0.001, joint: 0.03}, 0.05) == {pairs}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": 0.0}, "rate: expected a number between 0 and 1"),
        ({"rate": math.nan}, "rate: expected a number between 0 and 1"),
        ({"rate": 0.001}, "a rate of 0.001 needs at least 2999, got 999"),
        ({"permutations": 58}, "a rate of 0.05 needs at least 59, got 58"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, float], text: str) -> None:
    """A rate that is none, and one that so few permutations cannot reach."""
    sample = drawn(20, 0)
    with pytest.raises(SettingsError, match=text):
        compare_samples(sample, sample, LABELS, with_targets=True, **settings)


def test_surprises_are_those_of_the_method() -> None:
    """Of the right set and of the most probable one; none where a label is unknown."""
    from mlcrf.calibration import measure_surprises

    potentials = make_potentials(6, 5, seed=4)
    method, targets = (
        Exact(),
        torch.randint(0, 2, (6, 5), generator=torch.Generator().manual_seed(0)),
    )
    targets[2, 1] = UNKNOWN
    posterior = method(potentials)
    observed, likeliest = measure_surprises(method, potentials, posterior, targets)
    states = torch.tensor(list(itertools.product((0, 1), repeat=5)))
    for image in range(6):
        one = potentials.rows(torch.tensor([image] * 32))
        log_p = one.log_score(states).double().log_softmax(0)
        assert float(likeliest[image]) == pytest.approx(-float(log_p.max()), abs=1e-5)
        if image == 2:
            assert observed[image].isnan()
        else:
            at = (states == targets[image]).all(1).nonzero().item()
            assert float(observed[image]) == pytest.approx(-float(log_p[at]), abs=1e-5)
