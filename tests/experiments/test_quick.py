"""Every experiment runs on a small slice, and its tables can be made of what it writes."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.mirror import ROOT, make_small_mirror
from tests.program import run_program

# a quarter to half a minute each; `make experiments-quick` runs them
SLOW = (
    "albums",
    "best",
    "beyond_pairwise",
    "correlations",
    "coverage",
    "guarantees",
    "honesty",
    "many_labels",
    "multilabel",
    "objectives",
    "pretrained",
    "resolution",
    "rules",
    "slopes",
    "sources",
    "structures",
    "synthetic_recovery",
    "teach",
)
FOLDERS = sorted(
    path.parent.name
    for path in (ROOT / "experiments").glob("*/run.py")
    if path.parent.name not in ("lecture", *SLOW)
)
PICTURES = {
    "learning_curves": "curves.png",
    "calibration": "reliability.png",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of the slice, in the folder that `mlcrf download` makes."""
    home = tmp_path_factory.mktemp("photos")
    numbers = [*range(1, 301), *range(9001, 9101), *range(10001, 10201)]
    mirror = make_small_mirror(home / "mirror", numbers)
    words = ["download", "mirflickr25k", "--mirror", str(mirror), "--dest", str(home / "data")]
    assert run_program(*words).returncode == 0
    return home / "data"


@pytest.mark.parametrize("folder", FOLDERS)
def test_runs_on_a_slice(folder: str, data: Path, tmp_path: Path) -> None:
    """From photos to a table; nothing of the project is written over."""
    kept = ROOT / "experiments" / folder / "results.json"
    before = kept.read_bytes() if kept.exists() else None
    out = tmp_path / "out" / "results.json"
    words = ["--quick", "--data", str(data), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    done = run_program(*words, module=f"experiments.{folder}.run", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["about"]["quick"] is True and results["rows"]
    made = importlib.import_module(f"experiments.{folder}.run").tables(results)
    assert made and all(text.count("\n") >= 2 for text in made.values())
    assert next(iter(made.values())) in done.stdout
    if folder in PICTURES:
        assert (out.with_name(PICTURES[folder])).read_bytes().startswith(b"\x89PNG")
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_pages_hold_what_the_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was changed by hand is found, and put right."""
    from experiments import pages

    folder = tmp_path / "experiments" / "decisions"
    folder.mkdir(parents=True)
    source = ROOT / "experiments" / "decisions" / "results.json"
    (folder / "results.json").write_bytes(source.read_bytes())
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    begin, end = "<!-- decisions/rules: begin -->", "<!-- decisions/rules: end -->"
    readme.write_text(f"before\n{begin}\n| by hand |\n{end}\nafter\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    pages._tables.cache_clear()
    monkeypatch.setattr(sys, "argv", ["pages", "--check"])
    assert pages.main() == 1 and "by hand" in readme.read_text()
    monkeypatch.setattr(sys, "argv", ["pages"])
    assert pages.main() == 0
    assert "| expected-f1 |" in readme.read_text() and "by hand" not in readme.read_text()
    assert readme.read_text().startswith(f"before\n{begin}\n") and readme.read_text().endswith(
        f"{end}\nafter\n"
    )
    monkeypatch.setattr(sys, "argv", ["pages", "--check"])
    assert pages.main() == 0
    readme.write_text(readme.read_text().replace("rules", "nothing"))
    with pytest.raises(SystemExit, match="no table 'nothing' of decisions"):
        pages.main()
