"""Rules between labels: files of them, contradictions, and data that break them."""

from pathlib import Path

import numpy as np
import pytest

from mlcrf.data.manifest import Manifest
from mlcrf.data.rules import load_rules, with_rules
from mlcrf.errors import DataError, LabelsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.rules import Limit, Rules

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


def test_a_file_of_limits(tmp_path: Path) -> None:
    """Beside implications, hard and soft, with comments; written again they are the same rules."""
    text = """# what holds here
puppy => dog
exclusive: dog, pet, "sky, blue"
Never  together (2.5): animal , "sky, blue"
at most 2 of: animal, dog, pet
at least 1 of: animal, pet
exactly 1 of (.5): puppy, pet
"""
    rules = load_rules(write(tmp_path, text), LABELS)
    assert rules.pairs == ((2, 1),)
    assert rules.limits == (
        Limit((1, 3, 4), 0, 1),
        Limit((0, 4), 0, 1, 2.5),
        Limit((0, 1, 3), 0, 2),
        Limit((0, 3), 1, 2),
        Limit((2, 3), 1, 1, 0.5),
    )
    again = write(tmp_path, "\n".join(rules.lines(LABELS.names)))
    assert load_rules(again, LABELS) == rules


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
        ("exclusive: dog, pt\n", LabelsError, ":1: unknown label 'pt'; did you mean 'pet'"),
        ("exclusive: dog\n", LabelsError, ":1: names only one label, 'dog'; expected two or more"),
        ("exclusive: dog, pet, dog\n", LabelsError, ":1: names label 'dog' twice"),
        ("exclusive: dog,\n", LabelsError, ":1: expected a label name, got nothing"),
        ("exclusiv: dog, pet\n", LabelsError, ":1: unknown kind of rule 'exclusiv'; did you mean"),
        ("at most 3 of: dog, pet\n", LabelsError, ":1: at most 3 of: names only 2 labels"),
        ("at most 2 of: dog, pet\n", LabelsError, ":1: at most 2 of 2 labels: .* is no limit"),
        ("at least 0 of: dog, pet\n", LabelsError, ":1: at least 0 of 2 labels: expected a num"),
        ("at least 2 of: dog, pet\n", LabelsError, ":1: at least 2 of 2 labels: they would be in"),
        ("never together: dog, pet, animal\n", LabelsError, ":1: never together: expected two l"),
        ("exclusive (x): dog, pet\n", LabelsError, r":1: weight \(x\): expected a number of nats"),
        ("exclusive (-1): dog, pet\n", LabelsError, r":1: weight \(-1\): expected a number of n"),
        (
            "exclusive: dog, pet\n\nnever together: pet, dog\n",
            LabelsError,
            ":3: `never together: pet, dog` is on line 1 already; keep one of them",
        ),
        (
            "exclusive: animal, pet\ndog => pet\n",
            LabelsError,
            "rules.csv: `dog => animal` and line 1 and line 2 contradict each other: label 'dog' "
            "could never be present; remove one, or give a limit a weight",
        ),
        (
            "at least 1 of: dog, pet\nat least 1 of: dog, puppy\nnever together: dog, animal\n"
            "exclusive: pet, puppy, animal\n",
            LabelsError,
            "line 2 and line 3 and line 4 contradict each other: label 'animal' could never be pr",
        ),
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


def test_what_breaks_a_limit_is_unknown() -> None:
    """Nobody knows which of the labels is wrong; the note names the rule, the image and the row."""
    limits = (Limit((3, 4), 0, 1), Limit((0, 4), 1, 2), Limit((2, 3), 0, 1, 2.0))
    rules = Rules(CHAIN.pairs, limits)
    manifest = make_manifest(
        [
            [1, 0, 0, 0, 0],
            [1, 0, 0, 1, 1],  # pet and sky are never together
            [0, 0, 0, 0, 0],  # neither animal nor sky
            [-1, -1, 1, -1, 1],  # a puppy is an animal, and the sky excludes a pet
            [-1, -1, -1, -1, 0],  # so it has an animal
        ]
    )
    obeying = with_rules(manifest, rules)
    assert obeying.targets.tolist() == [
        [1, 0, 0, 0, 0],
        [1, 0, 0, -1, -1],
        [-1, 0, 0, 0, -1],
        [1, 1, 1, 0, 1],
        [1, -1, -1, -1, 0],
    ]
    assert set(obeying.notes[1:]) == {
        '1 image of made breaks the rule `never together: pet, "sky, blue"`, the first is im1.jpg '
        "(row 2): the labels in question count as unknown there; correct them, or give the rule a "
        "weight",
        '1 image of made breaks the rule `at least 1 of: animal, "sky, blue"`, the first is '
        "im2.jpg (row 3): the labels in question count as unknown there; correct them, or give the "
        "rule a weight",
        "4 unknown labels follow from rules and were filled in",
    }
    assert with_rules(obeying, rules).notes == obeying.notes


def test_rules_follow_the_labels() -> None:
    """Rows keep them, and other columns are found in whatever order the labels stand."""
    manifest = with_rules(make_manifest([[0, 0, 0, 0, 0]]), RULES)
    other = LabelSpace(("pet", "puppy", "sky, blue", "dog", "animal"))
    assert manifest.relabelled(other).rules.pairs == ((1, 3), (3, 4), (3, 0))
    assert manifest.rows(np.array([0])).rules == RULES
