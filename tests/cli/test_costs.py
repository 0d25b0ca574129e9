"""`--costs` and `--abstain`, from a file of costs to what is written, scored and refused."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlcrf import Tagger
from mlcrf.checkpoint import load_run
from mlcrf.errors import LabelsError, MlcrfError, SettingsError
from tests.cli.test_tag import photos, predict, run_command, tag
from tests.program import run_program

__all__ = ["photos"]


@pytest.fixture(scope="module")
def costs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Missing the first label is dear; the second is left open whatever its probability."""
    first, second, *_ = load_run(run).labels.names
    path = tmp_path_factory.mktemp("costs") / "costs.csv"
    path.write_text(f"label,false,missed,abstain\n{first},1,1000,\n{second},1,1,0\n*,1,1,\n")
    return path


def test_every_format_says_what_is_open(
    run: Path, photos: Path, costs: Path, tmp_path: Path
) -> None:
    """Tables of all kinds, wide and tidy, back and forth, name the same labels; Tagger does too."""
    labels = load_run(run).labels.names
    first, second = labels[:2]
    out = tmp_path / "tags.csv"
    done = predict(photos, "--model", run, "--out", out, "--costs", costs)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table.columns[:3]) == ["image", "labels", "abstained"]
    assert table["labels"].str.split(";").map(lambda one: first in one).all()
    assert (table["abstained"] == second).all()
    expected = (table[f"p:{labels[2]}"] > 0.5).tolist()
    assert table["labels"].str.split(";").map(lambda one: labels[2] in one).tolist() == expected
    for ending in ("jsonl", "parquet"):
        other, tidy, back = (tmp_path / f"{name}.{ending}" for name in ("other", "tidy", "back"))
        words = (photos, "--model", run, "--costs", costs)
        assert predict(*words, "--out", other).exit_code == 0
        again = tmp_path / f"{ending}.csv"
        assert run_command("convert", other, "--out", again).exit_code == 0
        assert again.read_bytes() == out.read_bytes()
        assert run_command("convert", other, "--out", tidy, "--tidy").exit_code == 0
        assert run_command("convert", tidy, "--out", back).exit_code == 0
        read = pd.read_parquet if ending == "parquet" else lambda p: pd.read_json(p, lines=True)
        assert [list(one) for one in read(back)["abstained"]] == [[second]] * len(table)
        rows = read(tidy)
        assert rows[rows["label"] == second]["present"].isna().all()
        assert rows[rows["label"] != second]["present"].notna().all()
    about = json.loads(pq.read_metadata(tmp_path / "other.parquet").metadata[b"mlcrf"])
    assert about["origin"]["decision"].startswith("least-cost,costs:costs.csv@")
    tidy = tmp_path / "tidy.csv"
    assert run_command("convert", out, "--out", tidy, "--tidy").exit_code == 0
    rows = pd.read_csv(tidy, keep_default_na=False)
    assert set(rows[rows["label"] == second]["present"]) == {"?"}
    tagger = Tagger.load(run, costs={first: (1, 1000), second: (1, 1, 0), "*": (1, 1)})
    predictions = list(tagger.predict(table["image"]))
    assert [";".join(one.labels) for one in predictions] == table["labels"].tolist()
    frame = tagger.to_frame(predictions)
    assert frame["abstained"].tolist() == [[second]] * len(table)
    assert list(Tagger.load(run, costs=costs).predict(table["image"])) == predictions


def test_open_labels_are_not_written_beside_photos(
    run: Path, photos: Path, costs: Path, tmp_path: Path
) -> None:
    """Nor for other programs; --only, --never and --rename hold for them, --given closes them."""
    labels = load_run(run).labels.names
    first, second = labels[:2]
    folder = tmp_path / "side"
    words = ("--txt", "--sidecar-dir", folder, "--model", run, "--costs", costs)
    assert tag(photos, *words).exit_code == 0
    texts = [path.read_text().split() for path in folder.rglob("*.txt")]
    assert len(texts) == 4 and all(first in one and second not in one for one in texts)
    out = tmp_path / "tags.parquet"
    given = ("--given", f"{second}=1")
    assert predict(photos, "--model", run, "--out", out, "--costs", costs, *given).exit_code == 0
    table = pd.read_parquet(out)
    assert all(second in one for one in table["labels"]) and not any(map(len, table["abstained"]))
    assert (
        predict(photos, "--model", run, "--out", tmp_path / "a.csv", "--costs", costs).exit_code
        == 0
    )
    never = tmp_path / "never.csv"
    done = run_command("convert", tmp_path / "a.csv", "--out", never, "--never", second)
    assert done.exit_code == 0
    assert (pd.read_csv(never, keep_default_na=False)["abstained"] == "").all()
    studio = tmp_path / "tasks.json"
    words = ("convert", tmp_path / "a.csv", "--out", studio, "--for", "label-studio")
    assert run_command(*words).exit_code == 0
    tasks = json.loads(studio.read_text())
    choices = [one["predictions"][0]["result"][0]["value"]["choices"] for one in tasks]
    assert all(first in one and second not in one for one in choices)


def test_parts_keep_what_is_open(run: Path, photos: Path, costs: Path, tmp_path: Path) -> None:
    """Merged parts are the whole table; other costs make another job."""
    words = (photos, "--model", run, "--costs", costs)
    whole, merged, parts = tmp_path / "whole.csv", tmp_path / "merged.csv", tmp_path / "parts"
    assert predict(*words, "--out", whole).exit_code == 0
    for number in (1, 2):
        assert predict(*words, "--shard", f"{number}/2", "--out", parts).exit_code == 0
    again = predict(*words, "--shard", "2/2", "--out", parts)
    assert again.stdout.startswith("nothing to do")
    assert run_command("convert", parts, "--out", merged).exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv(whole), pd.read_csv(merged), rtol=0, atol=1e-5)
    other = predict(*words, "--abstain", 0.1, "--shard", "2/2", "--out", parts)
    assert "was made with another decoder" in str(other.exception)


def test_costs_are_measured_beside_the_baseline(
    run: Path, drawn: Path, costs: Path, tmp_path: Path
) -> None:
    """Cost, expected cost and open labels, with intervals; as computed by hand from a table."""
    table = drawn / "labels.csv"
    words = ("evaluate", run, table, "--split", "all", "--costs", costs, "--resamples", 20)
    told = run_command(*words)
    assert told.exit_code == 0, told.output
    for title in ("cost per image", "expected cost per image", "labels left open per image"):
        assert f"\n{title} " in told.output
    assert "decision:least-cost,costs:costs.csv@" in told.output
    out = tmp_path / "scores.csv"
    found = run_command(*words, "--json", "--out", out)
    record = json.loads(found.stdout)
    crf = record["models"]["crf"]
    assert record["models"]["independent"]["open_labels"] == crf["open_labels"] == 1
    low, high = record["difference"]["cost"][1:]
    assert low <= crf["cost"] - record["models"]["independent"]["cost"] <= high
    assert {"cost", "expected_cost", "open_labels"} <= set(pd.read_csv(out)["measure"])
    # the same from the table that predict writes
    tags = tmp_path / "tags.csv"
    done = predict(drawn / "images", "--model", run, "--out", tags, "--costs", costs)
    assert done.exit_code == 0, done.output
    said = pd.read_csv(tags, keep_default_na=False)
    truth = pd.read_csv(table)
    truth["image"] = [str(drawn / name) for name in truth["image"]]
    both = said.merge(truth, on="image", validate="one_to_one")
    assert len(both) == len(truth)
    total = 0
    labels = load_run(run).labels.names
    for _, row in both.iterrows():
        present, is_open = row["labels"].split(";"), row["abstained"].split(";")
        for at, name in enumerate(labels):
            if name in is_open:
                continue
            if name in present and row[name] == 0:
                total += 1
            if name not in present and row[name] == 1:
                total += 1000 if at == 0 else 1
    assert crf["cost"] == pytest.approx(total / len(both))


def test_measures_of_costs_need_costs(run: Path, drawn: Path, costs: Path) -> None:
    """They can be asked for by name, and are not there without; `compare` has them, too."""
    words = ("evaluate", run, drawn / "labels.csv", "--resamples", 2, "--limit", 10)
    told = run_command(*words, "--measures", "cost,open_labels", "--costs", costs)
    assert told.exit_code == 0 and "\ncost per image" in told.output
    assert "nll per image" not in told.output
    told = run_command(*words, "--measures", "cost")
    assert "--measures: 'cost' needs --costs FILE" in str(told.exception)
    plain = json.loads(run_command(*words, "--json").stdout)
    assert plain["models"]["crf"]["cost"] is None and "cost" not in plain["difference"]
    assert "cost per image" not in run_command(*words, "--measures", "all").output


def test_mistakes_are_one_line(run: Path, photos: Path, costs: Path, tmp_path: Path) -> None:
    """A file that is none, labels that are none, and options that contradict each other."""
    out = tmp_path / "tags.csv"
    words = ("predict", photos, "--model", run, "--out", out)
    bad = tmp_path / "bad.csv"
    bad.write_text("label,false,missed\nnothing,1,1\n*,1,1\n")
    told = run_program(*map(str, (*words, "--costs", bad)))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"error: {bad}:2: unknown label 'nothing'\n"
    assert not out.exists()
    for options, reason in (
        (("--costs", costs, "--decode", "map"), "--costs is a rule of its own"),
        (("--costs", costs, "--decode", "threshold"), "--costs is a rule of its own"),
        (("--precision", 0.9, "--decode", "threshold"), "have thresholds of their own"),
        (("--costs", costs, "--threshold", 0.5), "--costs is a rule of its own"),
        (("--costs", costs, "--precision", 0.9), "--costs is a rule of its own"),
        (("--costs", costs, "--recall", 0.9), "--costs is a rule of its own"),
        (("--abstain", 0.1), "--abstain is for --costs"),
        (("--costs", costs, "--abstain", "nan"), "--abstain: expected a number from 0"),
        (("--costs", costs, "--abstain", -1), "--abstain: expected a number from 0"),
    ):
        refused = run_command(*words, *options)
        assert refused.exit_code == 2 and reason in refused.output, options
    with pytest.raises(SettingsError, match="leave one out"):
        Tagger.load(run, costs=costs, precision=0.9)
    with pytest.raises(SettingsError, match="abstain is for costs"):
        Tagger.load(run, abstain=0.1)
    with pytest.raises(LabelsError, match="unknown label 'nothing'"):
        Tagger.load(run, costs={"nothing": (1, 1)})
    with pytest.raises(MlcrfError, match=r"none\.csv: cannot be read"):
        Tagger.load(run, costs=tmp_path / "none.csv")
