"""What is said of data and runs with many labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mlcrf.data.manifest import Manifest
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.reports.inspection import dataset_record, format_dataset, format_run, run_record
from tests.reports.webpage.making import make_run


def make_manifest(num_labels: int) -> Manifest:
    """The label of rank r is in r of the images."""
    targets = np.tri(num_labels, dtype=np.int8).T[:, ::-1]
    names = tuple(f"label {number}" for number in range(num_labels))
    images = tuple(as_image(f"{number}.jpg") for number in range(num_labels))
    return Manifest(images, np.ascontiguousarray(targets), LabelSpace(names), None, "data")


def test_of_many_labels_the_most_frequent_are_shown() -> None:
    """And the table says so; the record has all."""
    record = dataset_record(make_manifest(101), top=0)
    lines = format_dataset(record).splitlines()
    assert len(record["labels"]) == 101
    assert "the 20 most frequent labels; --json has all" in lines
    counts = [
        int(line.split()[2]) for line in lines if line.startswith("label ") and "%" not in line
    ]
    assert counts == list(range(101, 81, -1))
    assert "101 labels" in lines[0]


def test_up_to_a_hundred_labels_all_are_shown_in_their_order() -> None:
    """Nothing is left out, nothing said."""
    text = format_dataset(dataset_record(make_manifest(100), top=0))
    assert "most frequent labels" not in text
    assert sum(line.startswith("label ") for line in text.splitlines()) == 101


def test_a_run_of_many_labels_names_some(tmp_path: Path) -> None:
    """Forty of them."""
    run = make_run(tmp_path / "run", tuple(f"label{number}" for number in range(50)))
    text = format_run(run_record(run))
    assert "50 labels: label0, " in text
    assert "label39 and 10 more" in text


def test_images_of_unknown_labels_are_not_images_without_any() -> None:
    """One is annotated as without any; of one nothing is known, of one a part."""
    some = make_manifest(4)
    targets = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [-1, -1, -1, -1], [0, 0, -1, 0]], dtype=np.int8)
    record = dataset_record(replace(some, targets=targets), top=0)
    assert (record["without_any_label"], record["none_known_present"]) == (1, 2)
    first = format_dataset(record).splitlines()[0]
    assert first.endswith("1 image without any, 2 images where that is unknown")
    known = dataset_record(replace(some, targets=np.maximum(targets, 0)), top=0)
    assert format_dataset(known).splitlines()[0].endswith("3 images without any")
