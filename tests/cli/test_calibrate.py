"""A promised precision or coverage, from calibration images to what is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlcrf import Tagger
from mlcrf.calibration import CALIBRATION, load_calibration
from mlcrf.checkpoint import load_run
from mlcrf.cli.options import cache_dir
from mlcrf.decoding import Coverage
from mlcrf.errors import MlcrfWarning, RunError
from mlcrf.serving.monitoring import Limits
from mlcrf.serving.tagging_app import make_app
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
        tagger = Tagger.load(calibrated, precision=0.7, cache_dir=cache_dir(None))
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
    out, bare = tmp_path / "tags.csv", tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns(CALIBRATION))
    told = mlcrf("predict", drawn / "images", "--model", bare, "--out", out, "--precision", 0.9)
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


def test_families_are_the_same_everywhere(
    mlcrf: Mlcrf, calibrated: Path, drawn: Path, tmp_path: Path
) -> None:
    """In every format, by shards, from Python and over HTTP; randomised or not."""
    words = ("predict", drawn, "--model", calibrated, "--coverage", 0.8, "--limit", 20)
    told = mlcrf(*words, "--out", tmp_path / "tags.parquet")
    assert told.returncode == 0, told.stderr
    assert "note: coverage 0.8 is promised for images like the 60 of" in told.stderr
    table = pd.read_parquet(tmp_path / "tags.parquet")
    assert (table["sets"] >= 1).all() and table["sets"].nunique() > 1
    for part in ("1/2", "2/2"):
        told = mlcrf(*words, "--shard", part, "--out", tmp_path / "parts")
        assert told.returncode == 0, told.stderr
    texts = {}
    for name, source in (("whole", tmp_path / "tags.parquet"), ("merged", tmp_path / "parts")):
        told = mlcrf("convert", source, "--out", tmp_path / f"{name}.csv")
        assert told.returncode == 0, told.stderr
        texts[name] = (tmp_path / f"{name}.csv").read_text()
    assert texts["whole"] == texts["merged"]
    assert texts["whole"].split("\n")[0].endswith(",surely,open,sets")
    told = mlcrf("convert", tmp_path / "tags.parquet", "--tidy", "--out", tmp_path / "tidy.csv")
    assert told.returncode == 0, told.stderr
    tidy = pd.read_csv(tmp_path / "tidy.csv")
    tagger = Tagger.load(calibrated, coverage=0.8, cache_dir=cache_dir(None))
    for row, one in zip(
        table.to_dict("records"), tagger.predict(drawn / n for n in table["image"]), strict=True
    ):
        family = one.family
        assert family is not None and family.is_exact
        assert (list(row["surely"]), list(row["open"])) == ([*family.present], [*family.open])
        assert row["sets"] == family.sets <= 2 ** len(family.open)
        said = tidy[tidy["image"] == row["image"]].set_index("label")["family"]
        assert set(said[said == "open"].index) == set(family.open)
        assert set(said[said == "present"].index) == set(family.present)
    assert list(tagger.to_frame(tagger.predict([drawn / table["image"][0]]))["sets"]) == [
        table["sets"][0]
    ]
    content = (drawn / table["image"][0]).read_bytes()
    client = TestClient(make_app(tagger.run, tagger, Limits(4, 4, 4, 4, 4)))
    reply = client.post("/tags/image", content=content, headers={"content-type": "image/png"})
    assert reply.json()["family"]["sets"] == table["sets"][0]
    randomised = Tagger.load(calibrated, coverage=0.8, randomised=True, cache_dir=cache_dir(None))
    images = [drawn / name for name in table["image"]]
    one_by_one = [next(iter(randomised.predict([image]))).family for image in images]
    assert [one.family for one in randomised.predict(images)] == one_by_one


def test_evaluate_measures_families(mlcrf: Mlcrf, calibrated: Path, drawn: Path) -> None:
    """Coverage of both models on the images that calibrated is at least what is promised."""
    words = ("evaluate", calibrated, drawn / "labels.csv", "--coverage", 0.8)
    told = mlcrf(*words, "--json")
    assert told.returncode == 0, told.stderr
    record = json.loads(told.stdout)
    assert "|coverage:0.8,calibration:" in record["signature"]
    for model in ("crf", "independent"):
        families = record["families"][model]
        assert families["coverage"] >= 49 / 60 and families["images"] == 60
        assert families["median_sets"] >= 1 and families["is_exact"]
    text = mlcrf(*words).stdout
    assert "right label set in the family, %" in text and "sets of a family, median" in text


def test_compare_and_report_have_promises(
    mlcrf: Mlcrf, calibrated: Path, drawn: Path, tmp_path: Path
) -> None:
    """The families that `evaluate` measures, of each run, and by which images they are promised."""
    data, options = drawn / "labels.csv", ("--coverage", 0.8, "--precision", 0.7)
    told = mlcrf("evaluate", calibrated, data, *options, "--json")
    wanted = json.loads(told.stdout)["families"]
    copy = tmp_path / "copy"
    shutil.copytree(calibrated, copy)
    words = ("compare", calibrated, copy, "--data", data, *options)
    told = mlcrf(*words, "--json")
    assert told.returncode == 0, told.stderr
    record = json.loads(told.stdout)
    assert record["families"] == {"run": wanted["crf"], "copy": wanted["crf"]}
    assert record["signature"].count("calibration:") == 2
    assert "right label set in the family, %" in mlcrf(*words).stdout
    out = tmp_path / "page.html"
    told = mlcrf("report", calibrated, data, *options, "--compare", copy, "--out", out)
    assert told.returncode == 0, told.stderr
    page = out.read_text(encoding="utf-8")
    assert page.count("right label set in the family, %") == 2
    for model in ("independent", "crf"):
        assert f"<td>{100 * wanted[model]['coverage']:.2f}</td>" in page


def test_what_a_coverage_needs(
    mlcrf: Mlcrf, calibrated: Path, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """Images of which all is known, enough of them, and scores; else one line says what to do."""
    told = mlcrf("predict", drawn, "--model", run, "--out", tmp_path / "a.csv", "--coverage", 0.99)
    assert told.returncode == 0, told.stderr
    assert "needs 99 calibration images" in told.stderr and "36: every label set" in told.stderr
    table = pd.read_csv(tmp_path / "a.csv")
    assert set(table["sets"]) == {2 ** len(load_run(run).labels)}
    with pytest.warns(MlcrfWarning, match="every label set is in every family"):
        assert Tagger.load(run, coverage=0.99).coverage is not None
    out, first = tmp_path / "b.csv", drawn / "labels.csv"
    label = load_run(run).labels.names[0]
    given = ("predict", drawn, "--model", calibrated, "--limit", 2, "--given", f"{label}=1")
    told = mlcrf(*given, "--out", out, "--coverage", 0.9)
    assert "no coverage is promised for images of which something is known" in told.stderr
    for options in (("--coverage", 90), ("--randomised",)):
        assert mlcrf("predict", drawn, "--out", tmp_path / "c.csv", *options).returncode == 2
    told = mlcrf("serve", calibrated, "--as", "photoprism", "--coverage", 0.9)
    assert told.returncode == 1 and "mlcrf's own interface" in told.stderr
    old = tmp_path / "old"
    shutil.copytree(calibrated, old)
    _rewrite(old, lambda tensors: {k: v for k, v in tensors.items() if "." not in k})
    told = mlcrf("evaluate", old, first, "--coverage", 0.9)
    assert told.returncode == 1 and "has no scores of label sets" in told.stderr
    assert "mlcrf calibrate" in told.stderr.splitlines()[-1]
    with pytest.warns(MlcrfWarning, match="recall 0.5"):  # which needs no such scores
        Tagger.load(old, recall=0.5)
    _rewrite(old, lambda tensors: tensors | {"crf.ahead": tensors["targets"][:, 0] * 0.0 + 7})
    with pytest.raises(RunError, match="damaged"):
        load_run(old).make_coverage(Coverage(0.9))
    partly = pd.read_csv(first)
    partly = partly.astype({label: object})
    partly[label] = ""
    partly["image"] = [str(drawn / name) for name in partly["image"]]
    partly.to_csv(tmp_path / "partly.csv", index=False)
    told = mlcrf("calibrate", run, tmp_path / "partly.csv", "--out", tmp_path / "other")
    assert told.returncode == 0, told.stderr
    assert "No image has all of its labels known" in told.stdout
    told = mlcrf("evaluate", tmp_path / "other", first, "--coverage", 0.9)
    assert told.returncode == 1 and "no calibration image has all of its labels" in told.stderr


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "calibration.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file(change(load_file(path)), path, about)
