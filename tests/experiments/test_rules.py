"""Counts over the outputs of a run with rules, and the change that rules make to each label."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments.rules.outputs import _READERS, breaks
from experiments.rules.ranking import tables
from mlcrf.labels import LabelSpace
from mlcrf.rules import read_rules

SENTENCES = [
    "dog => animal",
    "exactly 1 of: indoor, outdoor",
    "never together: night, day",
    "at most 2 of: dog, night, day, outdoor",
    "at least 1 of: animal, day",
    "never together (1.5): dog, indoor",
]


def test_sentences_are_broken_by_the_sets_that_the_rules_forbid() -> None:
    """All 64 label sets, beside the package's own rules."""
    labels = LabelSpace(("dog", "animal", "indoor", "outdoor", "night", "day"))
    rules = read_rules(enumerate(SENTENCES, 1), labels)
    allowed = 0
    for states in itertools.product((0, 1), repeat=6):
        present = {name for name, value in zip(labels, states, strict=True) if value}
        fine = bool(rules.obeyed_by(np.array([states], np.uint8))[0])
        assert breaks(present, rules.lines(labels.names)) is not fine, present
        allowed += fine
    assert 0 < allowed < 64


def test_a_sentence_that_is_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a rule"):
        breaks({"dog"}, ["some of: dog, cat"])


def test_label_sets_are_read_from_each_kind_of_file(tmp_path: Path) -> None:
    files = {
        "csv": "image,labels,p:dog\na.jpg,dog; animal,0.9\nb.jpg,,0.1\n",
        "jsonl": '{"image": "a.jpg", "labels": ["dog", "animal"]}\n{"image": "b", "labels": []}\n',
        "tidy.csv": "image,label,present,p\na,dog,1,0.9\na,animal,1,0.9\nb,dog,0,0.1\n",
        "ls.json": '[{"predictions": [{"result": [{"value": {"choices": ["dog", "animal"]}}]}]},'
        ' {"predictions": [{"result": []}]}]',
        "fo.json": '{"classes": ["cat", "dog", "animal"], "labels":'
        ' {"a": [{"label": 1}, {"label": 2}], "b": null}}',
    }
    for ending, text in files.items():
        path = tmp_path / f"file.{ending}"
        path.write_text(text, encoding="utf-8")
        assert list(_READERS[ending](path)) == [{"dog", "animal"}, set()], ending


def test_groups_of_labels_add_up() -> None:
    """The mean over labels is that of the groups, weighted by their sizes."""
    rows = [
        {"draw": draw, "label": label, "positives": count, "child": child}
        | {"without": 0.5, "with": 0.5 + gain, "for inference only": 0.5}
        for draw in (0, 1)
        for label, count, child, gain in (
            ("dog", 2, True, -0.09),
            ("cat", 40, True, 0.03),
            ("animal", 50, False, 0.0),
        )
    ]
    text = tables({"rows": rows})["ranking"]
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()}
    assert lines["all"][1:4] == ["3.0", "50.00", "-2.00 +- 0.00"]
    assert lines["that imply another, fewer than 10"][1:4] == ["1.0", "50.00", "-9.00 +- 0.00"]
    assert lines["that imply another, 30 or more"][3] == "+3.00 +- 0.00"
