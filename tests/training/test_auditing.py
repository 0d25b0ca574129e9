"""Likely errors of annotations."""

import numpy as np
import pytest
import torch

from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.metrics import Ranking
from mlcrf.training import auditing
from mlcrf.training.auditing import audit

COUNT = 300


def manifest(targets: np.ndarray) -> Manifest:
    return Manifest(
        images=tuple(as_image(f"/photos/im{n}.jpg") for n in range(len(targets))),
        targets=targets.astype(np.int8),
        labels=LabelSpace(("sea", "boat", "indoor")),
        splits=None,
        name="photos",
    )


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, annotations and which are wrong; a boat is at sea, and hardly shows."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(COUNT, 6)).astype(np.float32)
    sea = features[:, 0] + 0.3 * rng.normal(size=COUNT) > 0
    boat = sea & (rng.random(COUNT) < 0.9)
    indoor = features[:, 1] > 0.5
    truth = np.stack([sea, boat, indoor], 1)
    wrong = rng.random(truth.shape) < 0.05
    return features, truth ^ wrong, wrong


def precision(given: np.ndarray, wrong: np.ndarray, p: torch.Tensor) -> float:
    """Average precision of the known annotations by their probability of being wrong."""
    known = given >= 0
    score = np.where(given == 1, 1 - p.numpy(), p.numpy())[known]
    ranking = Ranking(score, wrong[known].astype(np.int8))
    return ranking.average_precision(np.ones(len(score)))


def test_planted_errors_come_first() -> None:
    """The other annotations add to what the image says, in the mean of eight drawings."""
    gains = []
    for seed in range(8):
        features, given, wrong = scene(seed)
        given = given.astype(np.int8)
        given[:20, 2] = -1
        found = audit(manifest(given), features)
        by_image = precision(given, wrong, found.p_image)
        assert by_image > 0.5
        gains.append(precision(given, wrong, found.p_others) - by_image)
        assert int(found.scores.isnan().sum()) == 20
    assert np.mean(gains) > 0.01


def test_errors_that_follow_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boats without a sea are found although a tenth of the boats have none."""
    features, given, wrong = scene()
    truth = (given ^ wrong).astype(np.int8)
    rng = np.random.default_rng(1)
    dry = (truth[:, 1] == 1) & (rng.random(COUNT) < 0.1)
    given = truth.copy()
    given[dry, 0] = 0
    wrong = given != truth
    found = {}
    for rate in (0.0, auditing._ERROR_RATE):
        monkeypatch.setattr(auditing, "_ERROR_RATE", rate)
        found[rate] = precision(given, wrong, audit(manifest(given), features).p_others)
    assert found[0.1] > found[0.0] + 0.02


def test_fits_are_counted() -> None:
    """Counts go one by one up to the number that was said from the first."""
    features, given, _ = scene()
    told: list[tuple[int, int]] = []
    audit(manifest(given), features, progress=lambda *counts: told.append(counts))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


def test_a_suspect_says_why() -> None:
    features, given, _ = scene()
    features[0, 0] = 0.2  # the image hardly tells
    given[0] = (False, True, False)
    found = audit(manifest(given), features)
    of_first = [one for one in found.suspects(0.0) if one.row == 0]
    sea = next(one for one in of_first if one.label == "sea")
    assert (sea.given, sea.suggestion) == (0, 1)
    assert sea.p_others > sea.p_image
    assert sea.because[0][:2] == ("boat", 1) and sea.because[0][2] > 0.5
    scores = [one.score for one in found.suspects(0.0)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3 * COUNT
    assert all(one.score >= 0.5 and one.given != one.suggestion for one in found.suspects())


def test_nothing_to_audit() -> None:
    features, given, _ = scene()
    with pytest.raises(DataError, match="unknown"):
        audit(manifest(np.full_like(given, -1, dtype=np.int8)), features)
