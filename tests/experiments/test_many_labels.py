"""Label sets of many labels, drawn from a CRF that is known."""

import numpy as np
import pytest
import torch

from experiments.many_labels.drawn import make_sparse_crf
from mlcrf.errors import SettingsError
from mlcrf.inference import Exact


def test_label_sets_are_as_of_annotated_photos() -> None:
    """Roughly 3.5 labels an image, few of them common; edges are sparse and in order."""
    crf = make_sparse_crf(200, 16)
    features, targets = crf.draw(1500, seed=1)
    assert (features.shape, targets.shape) == ((1500, 16), (1500, 200))
    assert targets.sum(1).mean() == pytest.approx(3.5, abs=0.7)
    assert np.corrcoef(targets.mean(0), crf.frequencies)[0, 1] > 0.95
    assert crf.frequencies.max() > 10 * np.median(crf.frequencies)
    assert bool((crf.edges[:, 0] < crf.edges[:, 1]).all())
    assert len(torch.unique(crf.edges, dim=0)) == len(crf.edges) <= 4 * 200


def test_the_same_seed_draws_the_same() -> None:
    """And another one does not."""
    crf, again = (make_sparse_crf(30, 4, labels_per_image=2.0) for _ in range(2))
    assert torch.equal(crf.biases, again.biases)
    one, other = crf.draw(50, seed=1), again.draw(50, seed=1)
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert (crf.draw(50, seed=2)[1] != one[1]).any()


def test_labels_follow_the_crf() -> None:
    """Of ten labels exact marginals are the mean of what is drawn, within five standard errors."""
    crf = make_sparse_crf(10, 2, labels_per_image=1.0)
    features, targets = crf.draw(4000, seed=0)
    marginals = Exact()(crf.potentials(torch.from_numpy(features))).marginals.double().numpy()
    error = np.sqrt((marginals * (1 - marginals)).sum(0)) / 4000
    assert (np.abs(targets.mean(0) - marginals.mean(0)) < 5 * error).all()


@pytest.mark.parametrize(("labels", "each"), [(9, 0.5), (20, 2.5), (20, 0.0)])
def test_what_cannot_be_drawn_is_refused(labels: int, each: float) -> None:
    """Too few labels, or too many of them an image."""
    with pytest.raises(SettingsError, match="at least 10 labels"):
        make_sparse_crf(labels, 4, labels_per_image=each)
