"""Several runs on the same images: the figures of `evaluate`, on the labels that all have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlcrf import compare, evaluate
from mlcrf.checkpoint import SPLITS, Run
from mlcrf.data.manifest import Manifest
from mlcrf.decoding import Coverage
from mlcrf.errors import LabelsError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from tests.reports.webpage.making import make_photos, make_run

LABELS = ("sea", "sky", "sun")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs with two labels in common, the second of which says that sun implies sky."""
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "one", LABELS)
    return one, make_run(folder / "other", ("sun", "moon", "sky"), rules=[[0, 2]])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve images of noise with labels at random, some unknown; sun has sky."""
    folder = tmp_path_factory.mktemp("photos")
    photos = make_photos(folder, tuple(f"{number}.jpg".encode() for number in range(12)))
    targets = np.random.default_rng(0).integers(-1, 2, (12, 3)).astype(np.int8)
    targets[:, 1] = np.maximum(targets[:, 1], targets[:, 2])
    return Manifest(tuple(map(as_image, photos)), targets, LabelSpace(LABELS), None, "data")


def test_it_is_the_scores_of_evaluate(runs: tuple[Run, Run], data: Manifest) -> None:
    """The same measures, and for a run against a copy of itself no difference at all."""
    copy = replace(runs[0], path=Path("elsewhere") / "copy")
    got = compare([runs[0], copy], data, split="all", at_k=2, resamples=5)
    alone = evaluate(runs[0], data, split="all", at_k=2, resamples=5)
    assert got.runs == {"one": alone.models["crf"], "copy": alone.models["crf"]}
    assert set(got.differences["copy"].values()) == {(0, 0, 0)}
    assert got.labels == LABELS and got.reference == "one"
    frame = got.to_frame().set_index(["run", "measure"])
    assert frame.loc["copy", "nll"].value == alone.models["crf"].nll
    assert np.isnan(frame.loc["one", "nll"].low)
    assert frame.loc["one", "micro_f1_at_k"].symbol == "OF1@k"


def test_runs_with_other_labels(runs: tuple[Run, Run], data: Manifest) -> None:
    """Those in common are compared, in the order of the first run; the others are unknown."""
    got = compare(runs, data, split="all", resamples=5)
    assert got.labels == ("sky", "sun")
    assert any("left out: sea, moon" in note for note in got.notes)
    assert not any("filled in" in note for note in got.notes)
    hidden = replace(data, targets=np.where([True, False, False], -1, data.targets).astype("i1"))
    alone = evaluate(runs[0], hidden, split="all", resamples=1).models["crf"]
    ours = got.runs["one"]
    assert (ours.nll, ours.hamming, ours.ranking_loss) != (0, 0, 0)
    assert (ours.nll, ours.hamming) == pytest.approx((alone.nll, alone.hamming))
    value, low, high = got.differences["other"]["hamming"]
    assert value == got.runs["other"].hamming - ours.hamming
    assert low <= value <= high
    broken = data.targets.copy()
    broken[0] = (0, 0, 1)
    got = compare(runs, replace(data, targets=broken), split="all", resamples=5)
    assert any(note.startswith("1 label was changed") for note in got.notes)


def test_images_that_a_run_learned_from(runs: tuple[Run, Run], data: Manifest) -> None:
    """Those of each run are counted by its own table of splits."""
    given = zip(data.images[:3], ("train", "validation", "test"), strict=True)
    rows = [f"{image.path},{split},0,0,0" for image, split in given]
    table = runs[1].path / SPLITS
    table.write_text("\n".join(["image,split,sun,moon,sky", *rows]) + "\n")
    got = compare(runs, data, split="all", resamples=2)
    table.unlink()
    assert got.in_training == {"one": 0, "other": 2}
    assert [note for note in got.notes if SPLITS in note and "not known" in note] == [
        "one has no splits.csv: whether it was trained on these images is not known"
    ]
    assert any(note.startswith("other: 2 of 12 images were used in training") for note in got.notes)


def test_what_cannot_be_compared(runs: tuple[Run, Run], data: Manifest, tmp_path: Path) -> None:
    """One clear line each."""
    strange = make_run(tmp_path / "strange", ("cat",))
    for given, at_k, error, message in (
        (runs[:1], None, SettingsError, "at least two runs"),
        ((runs[0], runs[0]), None, SettingsError, "is given twice"),
        ((runs[0], strange), None, LabelsError, "no label that all of these have: .*strange, data"),
        (runs, 1, SettingsError, "--at-k needs runs and data with the same labels"),
    ):
        with pytest.raises(error, match=message):
            compare(given, data, split="all", at_k=at_k)
    with pytest.raises(SettingsError, match="--coverage needs runs and data with the same labels"):
        compare(runs, data, split="all", coverage=Coverage(0.9))
