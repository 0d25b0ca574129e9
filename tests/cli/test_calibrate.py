"""A promised precision, from calibration images to what is written."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlcrf import Tagger
from mlcrf.calibration import load_calibration
from mlcrf.checkpoint import load_run
from mlcrf.errors import MlcrfWarning, RunError
from tests.cli.conftest import Mlcrf


@pytest.fixture(scope="module")
def calibrated(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the run, calibrated on the images that it was not trained on."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    told = mlcrf("calibrate", run, drawn / "labels.csv", "--out", out, "--json")
    assert told.returncode == 0, told.stderr
    record = json.loads(told.stdout)
    assert (record["images"], record["in_training"]) == (60, 180)
    assert record["calibration"].split("@")[0] == record["data"]
    assert [one["precision"] for one in record["support"]] == [0.9, 0.95, 0.99]
    assert record["tempering"]["crf"]["images"] == 60  # too few to choose factors
    assert not record["tempering"]["crf"]["kept"]
    sets = record["reliability"]["crf"]["before"]["sets"]
    assert sets["count"] == 60 and 0 <= sets["error"] <= 1
    return out


def test_training_keeps_the_validation_images(run: Path, calibrated: Path) -> None:
    """They are judged by the model before its last fit; those of `calibrate` by the run itself."""
    trained, copy = load_run(run), load_run(calibrated)
    assert trained.weights_digest == copy.weights_digest
    before, after = trained.load_calibration(), copy.load_calibration()
    assert (len(before.targets), before.of_final) == (36, False)
    assert (len(after.targets), after.of_final) == (60, True)


def test_only_what_is_promised_is_written(
    mlcrf: Mlcrf, calibrated: Path, drawn: Path, tmp_path: Path
) -> None:
    """`predict` names the labels left out and writes none; Parquet and Tagger say the same."""
    out = tmp_path / "tags.parquet"
    words = ("predict", drawn, "--model", calibrated, "--out", out, "--precision", 0.7)
    told = mlcrf(*words)
    assert told.returncode == 0, told.stderr
    assert (
        "note: precision 0.7 with confidence 0.9 is promised for images like the 60" in told.stderr
    )
    with pytest.warns(MlcrfWarning, match="cannot be had for"):
        tagger = Tagger.load(calibrated, precision=0.7)
    assert tagger.left_out
    assert f"left out: {', '.join(tagger.left_out)}" in told.stderr
    table = pd.read_parquet(out)
    written = set(table["labels"].explode().dropna())
    assert written and not written & set(tagger.left_out)
    predictions = tagger.predict(drawn / name for name in table["image"][:5])
    assert [list(one.labels) for one in predictions] == [list(one) for one in table["labels"][:5]]
    about = json.dumps({k.decode(): v.decode() for k, v in pq.read_metadata(out).metadata.items()})
    assert "precision:0.7,confidence:0.9,of:label,calibration:" in about


def test_known_labels_end_the_promise(
    mlcrf: Mlcrf, calibrated: Path, drawn: Path, tmp_path: Path
) -> None:
    """A note says so; the recall of each label is promised in the same way."""
    label = load_run(calibrated).labels.names[0]
    words = ("predict", drawn, "--model", calibrated, "--limit", 2, "--given", f"{label}=1")
    told = mlcrf(*words, "--out", tmp_path / "tags.csv", "--recall", 0.5)
    assert told.returncode == 0, told.stderr
    assert "note: nothing is promised for images of which something is known" in told.stderr


def test_mistakes_are_one_line(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """No calibration images, options that contradict each other, images of training, damage."""
    out = tmp_path / "tags.csv"
    told = mlcrf("predict", drawn, "--out", out, "--precision", 0.9)
    assert told.returncode == 1
    assert "mlcrf calibrate" in told.stderr and told.stderr.count("\n") == 1
    for options in (
        ("--precision", 0.9, "--recall", 0.9),
        ("--precision", 95),
        ("--confidence", 0.9),
        ("--precision-of", "all", "--recall", 0.9),
        ("--precision", 0.9, "--decode", "map"),
    ):
        told = mlcrf("predict", drawn, "--out", out, *options)
        assert told.returncode == 2, options
    told = mlcrf("calibrate", run, drawn / "labels.csv", "--split", "train")
    assert told.returncode == 1 and "used in training" in told.stderr
    told = mlcrf("calibrate", "mirflickr24", drawn / "labels.csv")
    assert told.returncode == 1 and "--out" in told.stderr
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with pytest.raises(RunError, match="other weights"):
        load_calibration(other, run="0", num_labels=len(load_run(other).labels))
    (other / "calibration.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="damaged"):
        Tagger.load(other, precision=0.9)
