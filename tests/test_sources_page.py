"""The commands of docs/sources.md, in their order, on drawn scenes."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from mlcrf.checkpoint import load_run
from mlcrf.synthetic.dataset import make_dataset
from tests.mirror import ROOT
from tests.program import run_program

PAGE = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
QUICK = "--set penalties=[0.3] --set pairwise_penalties=[0.01] --set structure_weights=[1]"
COLUMNS = {
    "places.csv": {"sky": "sky", "sea": "sea", "sunset": "sunset", "beach": "beach"},
    "creatures.csv": {"bird": "bird", "dog": "dog", "beach": "strand", "building": "bank"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables of 150 scenes each, of which they share 60."""
    folder = tmp_path_factory.mktemp("sources")
    make_dataset(folder, num_images=240, image_size_px=32)
    rows = pd.read_csv(folder / "labels.csv").drop(columns="split")
    for (name, columns), part in zip(COLUMNS.items(), (rows[:150], rows[90:]), strict=True):
        part[["image", *columns]].rename(columns=columns).to_csv(folder / name, index=False)
    (folder / "names.txt").write_text("coast = beach = strand\ncreatures.csv, bank => money\n")
    rows[["image", "sky", "sea"]].to_csv(folder / "guesses.csv", index=False)
    lists = [";".join(name for name in ("sky", "dog") if row[name]) for _, row in rows.iterrows()]
    rows.assign(labels=[one or "[]" for one in lists])[["image", "labels"]].to_csv(
        folder / "tags.csv", index=False
    )
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tags.csv", "--lists", "all"], "--lists all: expected [TABLE=]positives"),
        (["tags.csv", "places.csv", "--lists", "positives"], "--lists positives: which of"),
    ],
)
def test_wrong_lists(folder: Path, words: list[str], says: str) -> None:
    result = run_program("train", *words, "--out", "run", cwd=folder)
    assert result.returncode == 2
    assert says in " ".join(result.stderr.split())


def test_commands(folder: Path) -> None:
    """Each makes a run with the labels of all tables, and says what each gives; hints are used."""
    names = {}
    for command in re.findall(r"^    mlcrf (.*)$", PAGE, re.MULTILINE):
        words = shlex.split(command)
        trains = words[0] == "train"
        quick = shlex.split(QUICK) if trains else []
        if trains and "--lists" not in words:  # which has one schedule
            quick += ["--set", "schedule=joint"]
        result = run_program(*words, *quick, cwd=folder)
        assert result.returncode == 0, result.stderr
        if words[0] == "evaluate":
            assert "|hinted:150|" in result.stdout
            continue
        out = folder / words[words.index("--out") + 1]
        if trains:
            names[out.name] = load_run(out).labels.names
        if "creatures.csv" in words:
            assert "creatures.csv (table): 150 images (60 of them in other" in result.stderr
        if "--lists" in words:
            assert "tags.csv lists an estimated" in result.stdout
            inspected = run_program("inspect", out)
            assert "of present labels, tags.csv lists:" in inspected.stdout
    assert names == {
        "both": ("sky", "sea", "sunset", "beach", "bird", "dog", "strand", "bank"),
        "named": ("sky", "sea", "sunset", "coast", "bird", "dog", "money"),
        "tags": ("dog", "sky"),
        "checked": ("sky", "sea", "sunset", "beach", "dog"),
        "hinted": ("sky", "sea", "sunset", "beach"),
    }
    trust = load_run(folder / "runs" / "hinted").hints["flickr"]
    assert list(trust) == ["sky", "sea"]
    found = pd.read_csv(folder / "hinted.csv")
    truth = pd.read_csv(folder / "labels.csv")
    assert (found["image"].str[-10:] == truth["image"].str[-10:]).all()
    right = ((found["p:sky"] > 0.5) == truth["sky"]).mean()
    assert right > 0.95, "a source that knows the truth is trusted"
