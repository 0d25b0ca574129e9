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
    """Each makes a run with the labels of both tables, and says what each table gives."""
    commands = re.findall(r"^    mlcrf (train .*)$", PAGE, re.MULTILINE)
    names = {}
    for command in commands:
        words = [*shlex.split(command), *shlex.split(QUICK)]
        result = run_program(*words, "--cache-dir", "cache", cwd=folder)
        assert result.returncode == 0, result.stderr
        out = words[words.index("--out") + 1]
        names[out] = load_run(folder / out).labels.names
        if "creatures.csv" in words:
            assert "creatures.csv (table): 150 images (60 of them in other" in result.stderr
        else:
            assert "tags.csv lists an estimated" in result.stdout
            assert (
                "of present labels, tags.csv lists:" in run_program("inspect", folder / out).stdout
            )
    assert names["runs/both"] == ("sky", "sea", "sunset", "beach", "bird", "dog", "strand", "bank")
    assert names["runs/tags"] == ("dog", "sky")
    assert names["runs/checked"] == ("sky", "sea", "sunset", "beach", "dog")
    assert names["runs/named"] == ("sky", "sea", "sunset", "coast", "bird", "dog", "money")
