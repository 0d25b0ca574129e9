"""Labels of a data set for a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import DataError, RunError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.training.additions import add_labels, extend
from tests.training.test_extending import base_run


def table(labels: dict[str, list[int]], *splits: Split) -> Manifest:
    targets = np.array(list(labels.values()), dtype=np.int8).T
    images = tuple(as_image(f"/photos/{row}.jpg") for row in range(len(targets)))
    return Manifest(images, targets, LabelSpace(tuple(labels)), splits or None, "table")


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    """Case does not matter; rules of the run hold, and test images are left out."""
    given = table({"dog": [1, 0, 1], "SEA": [1, -1, 0]}, Split.TRAIN, Split.VALIDATION, Split.TEST)
    found = add_labels(base_run(tmp_path / "base"), given)
    assert found.labels.names == ("sea", "sky", "dog")
    assert found.targets.tolist() == [[1, 1, 1], [-1, -1, 0]]  # sea implies sky


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (table({"dog": [1, 0], "cat": [0, 0], "cow": [-1, 0]}), "no image has 'cat', 'cow'; a new"),
        (table({"Sea": [1, 0], "SEA": [1, 0]}), "labels 'Sea' and 'SEA' are both 'sea' of"),
        (table({"sea": [-1, -1]}), "nothing to learn"),
        (table({"dog": [1]}, Split.TEST), "all images are test images"),
        (table({"dog": [1, 0]}), "0.jpg: .*\n.*1.jpg: "),
    ],
)
def test_nothing_to_add(tmp_path: Path, given: Manifest, says: str) -> None:
    base = base_run(tmp_path / "base")
    with pytest.raises(DataError, match=says):
        extend(base, given, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_runs_that_cannot_be_extended(tmp_path: Path) -> None:
    base = base_run(tmp_path / "base")
    gated = replace(base, crf=LabelCrf(base.crf.output.in_features, 2, rank=1))
    with pytest.raises(RunError, match="train without --hidden-units, --pairwise conditional"):
        extend(gated, table({"dog": [1, 0]}), tmp_path / "new")
    with pytest.raises(RunError, match="exists already; --overwrite"):
        extend(base, table({"dog": [1, 0]}), base.path)
    assert torch.equal(base.crf.output.weight[0, :2], torch.tensor([3.0, 0.0]))
