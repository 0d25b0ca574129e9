"""Implications between labels: files of them, circles, and data that break them."""

from pathlib import Path

import numpy as np
import pytest

from mlcrf.data.manifest import Manifest
from mlcrf.data.rules import load_rules, with_rules
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules

LABELS = LabelSpace(("animal", "dog", "puppy", "pet", "sky, blue"))
CHAIN = Rules.from_names([("puppy", "dog"), ("dog", "animal")], LABELS)
RULES = Rules((*CHAIN.pairs, (1, 3)))


def make_manifest(targets: list[list[int]]) -> Manifest:
    images = tuple(as_image(f"im{row}.jpg") for row in range(len(targets)))
    return Manifest(images, np.array(targets, dtype=np.int8), LABELS, None, "made", ("old note",))


def write(folder: Path, text: str) -> Path:
    path = folder / "rules.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "puppy,dog\ndog,animal\n",
        "child,parent\r\n puppy , dog\r\n\r\ndog => animal\r\n",
        "puppy=>dog\ndog  =>animal",
        '\ufeff"puppy",dog\n"dog",animal\n',
    ],
)
def test_a_file_of_implications(text: str, tmp_path: Path) -> None:
    """With commas or arrows, with header or not; child first."""
    assert load_rules(write(tmp_path, text), LABELS) == CHAIN


def test_those_of_the_data_come_first(tmp_path: Path) -> None:
    """The file adds to them, and may repeat them."""
    path = write(tmp_path, '"sky, blue",pet\npuppy,dog\n')
    assert load_rules(path, LABELS, given=CHAIN) == Rules((*CHAIN.pairs, (4, 3)))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("puppy,dog\npupy,dog\n", LabelsError, ":2: unknown label 'pupy'; did you mean 'puppy"),
        ("dog => dog\n", LabelsError, ":1: label 'dog' is paired with itself"),
        ("puppy,dog\n\npuppy => dog\n", LabelsError, ":3: `puppy => dog` is on line 1 alr"),
        ("dog\n", LabelsError, ":1: expected two label names separated by a comma or =>, got 1"),
        ("puppy => dog => pet\n", LabelsError, ":1: expected two .* got 3: 'puppy => dog => pet"),
        (
            "child,parent\n",
            DataError,
            "contains no rule; expected lines such as `dog => animal`",
        ),
        (
            "dog,animal\nanimal,pet\npuppy,dog\npet,dog\npuppy,pet\n",
            LabelsError,
            ":4: labels imply each other in a circle: (dog => animal => pet => dog|"
            "animal => pet => dog => animal|pet => dog => animal => pet); remove one",
        ),
        ("animal,puppy\n", LabelsError, ":1: labels imply each other in a circle: "),
    ],
)
def test_faults_of_the_file(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """Each names the file and the line; a circle may go through rules of the data."""
    path = write(tmp_path, text)
    with pytest.raises(error, match=message) as caught:
        load_rules(path, LABELS, given=CHAIN)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [1, -1])
def test_data_are_repaired_upward(order: int) -> None:
    """A child sets its parents and theirs, an absent parent rules out what is below it."""
    manifest = make_manifest(
        [
            [0, 0, 1, 0, 0],  # a puppy that is no dog, no animal, no pet
            [-1, -1, 1, -1, -1],
            [0, -1, -1, 1, -1],  # no animal, so no dog, so no puppy
            [1, -1, -1, -1, 0],  # nothing follows
            [0, 1, 0, 1, 0],  # a dog that is no animal
        ]
    )
    rules = Rules(RULES.pairs[::order])
    obeying = with_rules(manifest, rules)
    assert obeying.targets.tolist() == [
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, -1],
        [0, 0, 0, 1, -1],
        [1, -1, -1, -1, 0],
        [1, 1, 0, 1, 0],
    ]
    assert set(obeying.notes) == {
        "old note",
        "1 image has puppy without dog: dog was set",
        "2 images have dog without animal: animal was set",
        "1 image has dog without pet: pet was set",
        "5 unknown labels follow from rules and were filled in",
    }
    assert obeying.rules == rules
    assert manifest.targets[0].tolist() == [0, 0, 1, 0, 0]  # what came in is as it was
    again = with_rules(obeying, RULES)
    assert np.array_equal(again.targets, obeying.targets)
    assert again.notes == obeying.notes


def test_many_broken_rules_are_summed_up() -> None:
    """Ten are named, the others counted."""
    names = LabelSpace(tuple(f"label{at}" for at in range(15)))
    rules = Rules(tuple((at, 0) for at in range(1, 15)))
    targets = np.eye(15, dtype=np.int8)
    images = tuple(as_image(f"im{row}.jpg") for row in range(15))
    notes = with_rules(Manifest(images, targets, names, None, "made"), rules).notes
    assert len(notes) == 11
    assert notes[0] == "1 image has label1 without label0: label0 was set"
    assert notes[-1] == "4 more rules were broken 4 times, and repaired"


def test_rules_follow_the_labels() -> None:
    """Rows keep them, and other columns are found in whatever order the labels stand."""
    manifest = with_rules(make_manifest([[0, 0, 0, 0, 0]]), RULES)
    other = LabelSpace(("pet", "puppy", "sky, blue", "dog", "animal"))
    assert manifest.relabelled(other).rules.pairs == ((1, 3), (3, 4), (3, 0))
    assert manifest.rows(np.array([0])).rules == RULES
