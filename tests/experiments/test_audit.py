"""Planted errors, and the scores that `mlcrf audit` is measured beside."""

import numpy as np
from cleanlab.multilabel_classification import get_label_quality_scores

from experiments.audit.run import of_images, planted


def test_the_score_by_the_image_alone_is_that_of_cleanlab() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((50, 6))
    given = rng.random((50, 6)) < 0.3
    theirs = get_label_quality_scores(
        [np.flatnonzero(row).tolist() for row in given], probabilities
    )
    ours = of_images(np.abs(given - probabilities))
    np.testing.assert_allclose(1 - ours, theirs, atol=1e-12)


def test_planted_errors_have_the_asked_share_and_leave_unknown_labels() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((2000, 6)) < 0.3).astype(np.int8)
    targets[:, 1] |= targets[:, 0] & (rng.random(2000) < 0.6)
    targets[:100] = -1
    for kind in ("random", "confusable"):
        flipped = planted(targets, kind, 0.05, rng)
        changed = flipped != targets
        assert abs(changed[100:].mean() - 0.05) < 0.005, kind
        assert not changed[:100].any(), kind
