"""`mlcrf drift`, from calibration images to one table, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from mlcrf import find_drift
from mlcrf.calibration import CALIBRATION, Calibration, Surprises, save_calibration
from mlcrf.checkpoint import load_run
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError, RunError, SettingsError
from tests.cli.conftest import Mlcrf
from tests.cli.test_tag import run_command


@pytest.fixture(scope="module")
def calibrated(run: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, calibrated on the 60 images that it was not trained on."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    told = run_command("calibrate", run, drawn / "labels.csv", "--out", out, "--engine", "torch")
    assert told.exit_code == 0, told.output
    return out


def drift(*words: object) -> str:
    told = run_command("drift", *words, "--engine", "torch")
    assert told.exit_code == 0, (told.output, told.exception)
    return told.stdout


def test_the_calibration_images_themselves_have_no_drift(calibrated: Path, drawn: Path) -> None:
    """With labels and without; those of training are left out and counted."""
    said = drift(calibrated, drawn / "labels.csv")
    assert said.startswith("60 images of labels (180 used in training left out), images and labels")
    assert "no drift found" in said and "none found" in said
    record = json.loads(drift(calibrated, drawn / "labels.csv", "--json"))
    assert (record["images"], record["reference_images"], record["in_training"]) == (60, 60, 180)
    assert record["found"] is False
    assert [one["score"] for one in record["verdicts"]] == ["labels", "pairs", "joint"]
    for verdict in record["verdicts"]:
        assert verdict["p_value"] > 0.9
        for one in verdict["findings"]:
            assert one["reference"] == pytest.approx(one["here"], abs=1e-4)
    plain = json.loads(drift(calibrated, drawn / "labels.csv", "--no-labels", "--json"))
    assert plain["with_targets"] is False
    quantities = {one["quantity"] for v in plain["verdicts"] for one in v["findings"]}
    assert "surprise of the most probable set" in quantities and "frequency" not in quantities


def test_other_images_are_found(mlcrf: Mlcrf, calibrated: Path, tmp_path: Path) -> None:
    """A folder of one colour without labels; status 0, and 1 only with --strict."""
    folder = tmp_path / "red"
    folder.mkdir()
    for number in range(40):
        Picture.new("RGB", (32, 32), (255, number, 0)).save(folder / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"no image")
    words = ("drift", calibrated, folder, "--engine", "torch")
    told = mlcrf(*words)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"40 images of {folder}, images only, beside 60 of labels@")
    assert ": DRIFT of " in told.stdout and "\npermutations 999, seed 0\n" in told.stdout
    assert "note: 1 image that cannot be read is left out" in told.stderr
    assert mlcrf(*words, "--strict").returncode == 1
    assert mlcrf(*words).stdout == told.stdout


def test_labels_alone(calibrated: Path, drawn: Path, tmp_path: Path) -> None:
    """The same images with the labels of others: the images are alike, the labels are not."""
    table = pd.read_csv(drawn / "labels.csv")
    learned = pd.read_csv(calibrated / "splits.csv")
    kept = set(learned[learned["split"] != "test"]["image"])
    table["image"] = [str(drawn / name) for name in table["image"]]
    table = table[~table["image"].isin(kept)].drop(columns="split", errors="ignore")
    assert len(table) == 60
    labels = list(load_run(calibrated).labels)
    table[labels] = 1 - table[labels].to_numpy()
    place = tmp_path / "swapped.csv"
    table.to_csv(place, index=False)
    record = json.loads(drift(calibrated, place, "--json", "--accept", "combinations"))
    verdicts = {one["score"]: one for one in record["verdicts"]}
    assert verdicts["labels"]["found"] and verdicts["joint"]["found"]
    assert "frequency" in verdicts["labels"]["findings"][0]["quantity"]
    record = json.loads(drift(calibrated, place, "--json", "--no-labels"))
    assert record["found"] is False


def test_a_run_as_it_was_trained(run: Path, drawn: Path) -> None:
    """Its validation images are the reference, judged before the last fit: a note says so."""
    told = run_command("drift", run, drawn / "labels.csv", "--engine", "torch")
    assert told.exit_code == 0, told.output
    assert "beside 36 of labels/validation@" in told.output
    assert "judged by the model before its last fit" in told.output
    assert "whole label sets" in told.stdout


def test_files_of_older_versions(calibrated: Path, drawn: Path, tmp_path: Path) -> None:
    """Without surprises there is no score of label sets, and a note says how to get it."""
    trained = load_run(calibrated)
    kept = trained.load_calibration()
    assert kept.surprises is not None and bool(kept.surprises.observed.isfinite().all())
    old = tmp_path / "old"
    shutil.copytree(calibrated, old)
    save_calibration(old, replace(kept, surprises=None))
    manifest = read_dataset(drawn / "labels.csv", ReadOptions(labels=trained.labels))
    report = find_drift(load_run(old), manifest, permutations=99)
    assert [one.score for one in report.verdicts] == ["labels", "pairs"]
    assert any("make them again with `mlcrf calibrate`" in note for note in report.notes)
    assert kept.thinned(0) is kept
    many = replace(
        kept,
        standings={},
        targets=kept.targets.repeat(400, 1),
        marginals={name: one.repeat(400, 1) for name, one in kept.marginals.items()},
        surprises=Surprises(*(one.repeat(400) for one in kept.surprises)),
    )
    few: Calibration = many.thinned(0)
    assert few.surprises is not None and len(few.surprises.observed) == len(few.targets) == 20_000


def test_mistakes_are_one_line(mlcrf: Mlcrf, calibrated: Path, drawn: Path, tmp_path: Path) -> None:
    """No calibration images, too few images, labels that are not the run's, damage."""
    bare = tmp_path / "bare"
    shutil.copytree(calibrated, bare, ignore=shutil.ignore_patterns(CALIBRATION))
    told = mlcrf("drift", bare, drawn / "images")
    assert told.returncode == 1 and told.stderr.count("\n") == 1
    assert "has no calibration images" in told.stderr and "mlcrf calibrate" in told.stderr
    told = mlcrf("drift", calibrated, tmp_path / "nothing")
    assert (told.returncode, told.stdout) == (1, "") and "no such file or folder" in told.stderr
    trained = load_run(calibrated)
    manifest = read_dataset(drawn / "labels.csv", ReadOptions(labels=trained.labels))
    with pytest.raises(DataError, match=r"expected at least 10, better hundreds"):
        find_drift(trained, manifest.rows(np.arange(9)))
    with pytest.raises(SettingsError, match="rate: expected a number between 0 and 1"):
        find_drift(trained, manifest, rate=2)
    told = mlcrf("drift", calibrated, drawn / "labels.csv", "--rate", 0.001)
    assert told.returncode == 1 and "needs at least 2999" in told.stderr
    other = tmp_path / "other.csv"
    pd.DataFrame(
        {"image": [str(drawn / "images" / "a.png")] * 12, "dog": [0, 1] * 6, "cat": [1, 0] * 6}
    ).to_csv(other, index=False)
    told = mlcrf("drift", calibrated, other)
    assert told.returncode == 1 and "Traceback" not in told.stderr
    broken = tmp_path / "broken"
    shutil.copytree(calibrated, broken)
    kept = trained.load_calibration()
    assert kept.surprises is not None
    wrong = Surprises(kept.surprises.observed[:3], kept.surprises.likeliest)
    save_calibration(broken, replace(kept, surprises=wrong))
    with pytest.raises(RunError, match="damaged: expected finite surprises of 60 images"):
        load_run(broken).load_calibration()
