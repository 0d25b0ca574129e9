"""A manifest from a pandas table, and back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import ImageBytes, as_image


def test_a_frame_comes_back() -> None:
    """Images of any kind, splits, and labels with unknowns."""
    frame = pd.DataFrame(
        {
            "file": ["a.jpg", Path("b/c.jpg"), "s3://photos/d.jpg", ImageBytes("e", b"content")],
            "split": ["train", "val", "test", "train"],
            "sea": [1, 0, np.nan, True],
            "sky": pd.array([True, pd.NA, False, True], dtype="boolean"),
        }
    )
    manifest = Manifest.from_frame(frame, images="file")
    assert manifest.images[:3] == tuple(map(as_image, ["a.jpg", "b/c.jpg", "s3://photos/d.jpg"]))
    assert manifest.images[3].read() == b"content"
    assert manifest.splits == (Split.TRAIN, Split.VALIDATION, Split.TEST, Split.TRAIN)
    assert manifest.labels.names == ("sea", "sky")
    assert manifest.targets.tolist() == [[1, 1], [0, -1], [-1, 0], [1, 1]]
    assert manifest.targets.dtype == np.int8
    again = Manifest.from_frame(manifest.to_frame())
    assert [one.name for one in again.images] == [one.name for one in manifest.images]
    assert again.targets.tolist() == manifest.targets.tolist()
    assert (again.splits, again.labels) == (manifest.splits, manifest.labels)


def test_columns_of_a_frame() -> None:
    """As they were named; unknown is NA; without splits there is no such column."""
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "note": ["x", "y"], "sea": [0.0, None]})
    manifest = Manifest.from_frame(frame, labels=["sea"])
    assert manifest.splits is None
    back = manifest.to_frame()
    assert list(back.columns) == ["image", "sea"]
    assert back["sea"].dtype == "Int8"
    assert back["sea"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("columns", "labels", "message"),
    [
        ({"path": ["a"], "sea": [1]}, None, "data: has no column 'image'"),
        ({"image": ["a"], "sea": [1]}, ["sky"], "data: has no column 'sky'"),
        ({"image": ["a", "b"], "sea": [1, 2]}, None, "data: row 1: label 'sea' is '2'; expected"),
        ({"image": ["a", None], "sea": [1, 0]}, None, "data: row 1: image 'None'; expected"),
        ({"image": ["a"], "split": ["x"], "sea": [1]}, None, "data: row 0: unknown split 'x'"),
        (
            {"image": ["a", "b", "a"], "sea": [1, 0, 0]},
            None,
            "data: rows 0 and 2: a has other labels",
        ),
        (
            {"image": ["a", "a"], "split": ["train", "test"], "sea": [1, 1]},
            None,
            "data: rows 0 and 1: a is in another split",
        ),
    ],
)
def test_frames_that_are_wrong(
    columns: dict[str, list[object]], labels: list[str] | None, message: str
) -> None:
    """One line names the column, or row and cell."""
    with pytest.raises(DataError, match=message):
        Manifest.from_frame(pd.DataFrame(columns), labels=labels, name="data")


def test_rows_that_stand_twice() -> None:
    """An image that is repeated with the same labels counts once, and a note says so."""
    manifest = Manifest.from_frame(pd.DataFrame({"image": ["a", "b", "a"], "sea": [1, 0, 1]}))
    assert [image.name for image in manifest.images] == ["a", "b"]
    assert manifest.targets.tolist() == [[1], [0]]
    assert manifest.notes == ("1 row stands twice, with the same labels",)


def test_names_that_cannot_be() -> None:
    """Label names are refused, in a manifest and in a frame."""
    with pytest.raises(LabelsError):
        Manifest.from_frame(pd.DataFrame({"image": ["a"]}))
    manifest = Manifest.from_frame(pd.DataFrame({"file": ["a"], "image": [1]}), images="file")
    with pytest.raises(DataError, match="label 'image' has another meaning"):
        manifest.to_frame()
