"""`mlcrf extend`: labels added to a run."""

import csv
import json
from pathlib import Path

from mlcrf.checkpoint import load_run
from tests.cli.conftest import Mlcrf


def test_a_label_more(mlcrf: Mlcrf, drawn: Path, run: Path, tmp_path: Path) -> None:
    """The new run knows it beside the old labels, one of which the table spells otherwise."""
    table = tmp_path / "more.csv"
    with (drawn / "labels.csv").open(newline="") as file, table.open("w") as more:
        more.write("image,SEA,wet\n")
        for row in list(csv.DictReader(file))[:120]:
            more.write(f"{drawn / row['image']},{row['sea']},{row['sea']}\n")
    words = ("--engine", "torch", "--cache-dir", run.parent / "cache", "--json")
    result = mlcrf("extend", run, table, "--out", tmp_path / "new", *words)
    assert result.returncode == 0, result.stderr
    assert "answers about labels that run knows do not show that it is wrong: sea" in result.stderr
    old, new = load_run(run), load_run(tmp_path / "new")
    assert new.labels.names == (*old.labels.names, "wet")
    assert "extend" in new.made_by.command
    told = json.loads(result.stdout)
    assert told["labels"]["wet"]["is_new"] and not told["labels"]["sea"]["is_new"]
    assert 0 <= told["change"]["mean"] <= told["change"]["largest"] < 1
    kept = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert kept["change"] == told["change"]
    assert "## Teaching" in (tmp_path / "new" / "README.md").read_text()

    again = mlcrf("extend", run, table, "--out", run)
    assert again.returncode == 1
    assert "exists already; --overwrite it, or choose another --out" in again.stderr
