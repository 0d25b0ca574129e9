"""Data that are odd are learned from, or refused in one line."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcrf.checkpoint import Run
from mlcrf.choices import ObjectiveName
from mlcrf.synthetic.dataset import make_dataset
from tests.reliability.odd_numbers import (
    ENGINE,
    Command,
    Outcome,
    assert_finite,
    assert_refused,
)
from tests.reliability.scale import at_length

OPTIONS = [
    *("--backbone", "tiny", "--finetune", "all", "--epochs", 1, *ENGINE),
    *("--set", "penalties=[0.3]", "--set", "pairwise_penalties=[0.01]", "--set", "steps=10"),
    *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
]
Row = tuple[str, str, list[int]]  # picture, split, cells
TRAIN, VALIDATION, TEST = "train", "validation", "test"


def rows(
    counts: tuple[int, int, int] = (14, 5, 5),
    *,
    num_labels: int = 3,
    change: Callable[[Any], object] = lambda cells: None,
) -> list[Row]:
    """So many drawn pictures in each split, with random cells of which some are changed."""
    cells = np.random.default_rng(0).integers(0, 2, (sum(counts), num_labels))
    cells[0, :] = 1
    change(cells)
    splits = [s for s, n in zip((TRAIN, VALIDATION, TEST), counts, strict=True) for _ in range(n)]
    numbered = enumerate(zip(splits, cells.tolist(), strict=True))
    return [(f"{number:06d}.jpg", split, line) for number, (split, line) in numbered]


def setting(where: Any, value: int) -> Callable[[Any], object]:
    return lambda cells: cells.__setitem__(where, value)


def one_twice(names: tuple[str, str]) -> list[Row]:
    """The same picture in train and test, under these names."""
    return [*rows(), (names[0], TRAIN, [1, 0, 1]), (names[1], TEST, [1, 0, 1])]


ALL, UNKNOWN = slice(None), -1
WORKS = {
    "on-all-images": rows(change=setting((ALL, 0), 1)),
    "on-no-image": rows(change=setting((ALL, 0), 0)),
    "all-present": rows(change=setting(ALL, 1)),
    "all-absent": rows(change=setting(ALL, 0)),
    "present-and-absent": rows(num_labels=2, change=setting((ALL, 0), 1)),
    "one-label": rows(num_labels=1),
    "one-label-on-all": rows(num_labels=1, change=setting(ALL, 1)),
    "one-label-on-none": rows(num_labels=1, change=setting(ALL, 0)),
    "one-image-a-split": rows((1, 1, 1)),
    "one-image-all-absent": rows((1, 1, 1), change=setting(ALL, 0)),
    "two-images-to-train": rows((2, 1, 1)),
    "identical": [
        (f"same{place:02d}.jpg", split, line) for place, (_, split, line) in enumerate(rows())
    ],
    "identical-and-alike": [
        (f"same{place:02d}.jpg", split, [1, 0]) for place, (_, split, _) in enumerate(rows())
    ],
    "under-two-names": one_twice(("same00.jpg", "same01.jpg")),
    "no-validation": rows((20, 0, 4)),
    "unknown-in-test": rows(change=setting((slice(14, None), 1), UNKNOWN)),
    "one-image-unknown": rows(change=setting((-1, ALL), UNKNOWN)),
    "half-of-test-unknown": rows((14, 5, 2), change=setting((-1, ALL), UNKNOWN)),
    "mostly-unknown": rows(change=setting((slice(1, 18), ALL), UNKNOWN)),
    "validation-unknown": rows(change=setting((slice(14, 19), ALL), UNKNOWN)),
}
QUICK_SETS = {
    "on-all-images",
    "all-absent",
    "one-label-on-all",
    "one-image-a-split",
    "identical",
    "half-of-test-unknown",
}
REFUSED = {
    "one-image": (rows((1, 0, 0)), "1 image is too few"),
    "two-images": (rows((2, 0, 0)), "2 images are too few"),
    "no-train": (rows((0, 5, 5)), "no image in split 'train'"),
    "only-test": (rows((0, 0, 5)), "no image in split 'train'"),
    "in-two-splits": (one_twice(("same00.jpg", "same00.jpg")), ":27: duplicate row: "),
    "label-unknown": (rows(change=setting((ALL, 1), UNKNOWN)), "'label1' is unknown in every"),
    "label-unknown-in-train": (
        rows(change=setting((slice(14), 1), UNKNOWN)),
        "'label1' is unknown in every",
    ),
    "all-unknown": (rows(change=setting(ALL, UNKNOWN)), "every label of every training image"),
    "no-image": ([], "has no rows"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn pictures, and 24 copies of one."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    make_dataset(folder, num_images=24, image_size_px=32)
    for number in range(24):
        shutil.copy(folder / "images" / "000000.jpg", folder / "images" / f"same{number:02d}.jpg")
    return folder / "images"


def write_table(path: Path, pictures: Path, lines: list[Row], num_labels: int = 3) -> Path:
    num_labels = len(lines[0][2]) if lines else num_labels
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "split", *(f"label{number}" for number in range(num_labels))])
        for name, split, cells in lines:
            table.writerow([pictures / name, split, *("" if c < 0 else c for c in cells)])
    return path


@pytest.mark.parametrize(
    "name", [one if one in QUICK_SETS else pytest.param(one, marks=at_length) for one in WORKS]
)
@pytest.mark.parametrize(
    "objective",
    ["auto", *(pytest.param(one.value, marks=at_length) for one in ObjectiveName if one != "auto")],
)
def test_odd_data_that_can_be_learned(
    pictures: Path, tmp_path: Path, mlcrf_command: Command, name: str, objective: str
) -> None:
    """Trained, scored and used to tag: every number of it is one, and numpy has no complaint."""
    table = write_table(tmp_path / "table.csv", pictures, WORKS[name])
    trained = ["--out", tmp_path / "run", *OPTIONS]
    if objective != "independent":
        trained += ["--objective", objective]
    else:
        trained += ["--structure", "independent"]
    assert_done(mlcrf_command("train", table, *trained))
    scored = mlcrf_command(
        "evaluate", tmp_path / "run", table, "--resamples", 20, *ENGINE, "--json"
    )
    assert_done(scored)
    figures = json.loads(scored[1], parse_constant=refuse_constant)
    for measures in figures["models"].values():
        assert 0 <= measures["hamming"] <= 1 and measures["nll"] >= 0
    assert_tags(pictures, tmp_path, mlcrf_command)


def assert_done(outcome: Outcome) -> None:
    status, _, errors = outcome
    assert status == 0 and "Traceback" not in errors, errors


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def assert_tags(pictures: Path, folder: Path, command: Command) -> None:
    """Of five pictures there is a row each, of finite probabilities; and no file holds worse."""
    out = folder / "tags.jsonl"
    words = [pictures, "--model", folder / "run", "--limit", 5, "--out", out, "--strict", *ENGINE]
    assert_done(command("predict", *words))
    assert len(out.read_text().splitlines()) == 5
    assert_finite(folder)


@pytest.mark.parametrize("name", REFUSED)
def test_odd_data_that_cannot(
    pictures: Path, tmp_path: Path, mlcrf_command: Command, name: str
) -> None:
    """One line says what is wrong with them, and nothing is made."""
    lines, reason = REFUSED[name]
    table = write_table(tmp_path / "table.csv", pictures, lines)
    assert_refused(mlcrf_command("train", table, "--out", tmp_path / "run", *OPTIONS), reason)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_scores_of_nothing(
    trained: Run, pictures: Path, tmp_path: Path, mlcrf_command: Command, split: str
) -> None:
    """A split that is empty, or of which nothing is known, is said to be so."""
    counts = (14, 0, 5) if split == VALIDATION else (14, 5, 0)
    words = ["--split", split, *ENGINE, "--out", tmp_path / "figures.csv"]
    names = {f"label{place}": name for place, name in enumerate(trained.labels)}
    for lines, reason in (
        (rows(counts, num_labels=4), f"no image in split '{split}'"),
        (rows(num_labels=4, change=setting(ALL, UNKNOWN)), "no label of any of its 5 images is"),
    ):
        table = write_table(tmp_path / "table.csv", pictures, lines)
        text = re.sub(r"label\d", lambda found: names[found[0]], table.read_text())
        table.write_text(text)
        assert_refused(mlcrf_command("evaluate", trained.path, table, *words), reason)
        assert not (tmp_path / "figures.csv").exists()


@at_length
@pytest.mark.timeout(0)
def test_five_thousand_labels(pictures: Path, tmp_path: Path, mlcrf_command: Command) -> None:
    """With few couplings and few steps: trained, scored and used to tag."""

    def sparsely(cells: Any) -> None:
        cells[...] = np.random.default_rng(1).random(cells.shape) < 0.02

    lines = rows(num_labels=5000, change=sparsely)
    table = write_table(tmp_path / "table.csv", pictures, lines)
    options = [*OPTIONS, "--structure", "sparse", "--set", "edges_per_label=2"]
    assert_done(mlcrf_command("train", table, "--out", tmp_path / "run", *options))
    words = [tmp_path / "run", table, "--split", "all", "--resamples", 2, *ENGINE, "--json"]
    scored = mlcrf_command("evaluate", *words)
    assert_done(scored)
    json.loads(scored[1], parse_constant=refuse_constant)
    assert_tags(pictures, tmp_path, mlcrf_command)
