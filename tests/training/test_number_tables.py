"""Runs on tables of numbers: trained, scored, asked and refused by the same code as on images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mlcrf import compare, evaluate
from mlcrf.backbones.registry import BackboneSpec, Source, make_backbone
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import EngineName, Schedule
from mlcrf.cli.mistakes import require_images
from mlcrf.config import TrainSettings
from mlcrf.data.feature_columns import read_rows
from mlcrf.data.feature_files import FEATURE_SUFFIXES, KnownOfImages, save_features
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError, LabelsError, MlcrfError, SettingsError
from mlcrf.evaluation import answer, count_in_training
from mlcrf.prediction import Tagger
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.training.extraction import Environment
from mlcrf.training.progress import RunStarted
from mlcrf.training.run import train
from tests.program import run_program

SETTINGS = TrainSettings(
    penalties=(0.1,), pairwise_penalties=(0.01,), schedule=Schedule.JOINT, structure_weights=(1.0,)
)
LABELS = ["sea", "sky", "snow"]
LEARNED = ("f0", "f1", "depth")


def draw_table(rows: int = 120) -> pd.DataFrame:
    """Three labels of a few columns of numbers, with an id and a split."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(rows, 4))
    frame = pd.DataFrame(numbers, columns=["f0", "f1", "f2", "depth"])
    frame["depth"] = 1e5 * frame["depth"]
    score = numbers[:, [0, 1, 2]] + rng.normal(size=(rows, 3))
    for at, label in enumerate(LABELS):
        frame[label] = (score[:, at] + score[:, at - 1] > 0).astype(int)
    frame.insert(0, "id", [f"s-{row}" for row in range(rows)])
    frame["split"] = ["test" if row % 3 == 0 else "train" for row in range(rows)]
    return frame


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numbers") / "data.csv"
    draw_table().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(table: Path) -> Run:
    manifest = read_dataset(table, ReadOptions(features=("f*", "depth")))
    return train(manifest, table.parent / "run", SETTINGS).run


def read_for(run: Run, path: Path) -> Manifest:
    features = run.backbone_spec.features
    return read_dataset(path, ReadOptions(labels=run.labels, run_features=features))


def test_its_log_names_no_network(table: Path, tmp_path: Path) -> None:
    """The settings that a log is given say `table`, as the run's config.json does."""
    manifest = read_dataset(table, ReadOptions(features=("f*", "depth")))
    events: list[object] = []
    train(manifest, tmp_path / "run", SETTINGS, log=events.append)
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.settings.backbone == "table"


def test_a_run_knows_its_features(run: Run, table: Path) -> None:
    """Their names are saved with it, and its rows are known again by their ids."""
    loaded = load_run(run.path)
    assert loaded.backbone_spec.features == ("f0", "f1", "f2", "depth")
    assert loaded.settings.backbone == "table"
    manifest = read_for(loaded, table)
    assert count_in_training(loaded, manifest) == 80
    assert count_in_training(loaded, manifest.part(Split.TEST)) == 0


@pytest.mark.parametrize("change", ["reordered", "appended"])
def test_columns_are_found_by_name(run: Run, table: Path, tmp_path: Path, change: str) -> None:
    """The order of columns means nothing, and other columns are not taken for features."""
    frame = draw_table()
    known = ["id", *LABELS]
    others = ["depth", "f2", "f0", "f1", "split"]
    frame[known + others].to_csv(tmp_path / "t.csv", index=False)
    if change == "appended":
        frame["f3"] = 0.5
        frame.to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(LabelsError, match="not expected 'f3'"):
            read_for(run, tmp_path / "t.csv")
        return
    ours, theirs = (
        answer(run, read_for(run, path)).crf.marginals for path in (table, tmp_path / "t.csv")
    )
    assert np.array_equal(ours, theirs)


def test_other_data_than_it_learned_from(run: Run, table: Path, tmp_path: Path) -> None:
    """A table without its features is refused with their names, as are images."""
    frame = draw_table().rename(columns={"f1": "g1"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="lacks 1 of the 4 features that the run learned from: 'f1"):
        read_for(run, tmp_path / "t.csv")
    frame.drop(columns=["f0", "g1", "f2", "depth"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"has not the 4 features that .* learned from: f0, f1, f2"):
        answer(run, read_for(run, tmp_path / "t.csv"))
    with pytest.raises(MlcrfError, match="`mlcrf tag` needs images; for predictions: mlcrf"):
        require_images(run, "tag")
    rows = read_dataset(table, ReadOptions(features=("f*", "depth")))
    with pytest.raises(DataError, match="learned from images, by backbone lite0"):
        load_run(Path("mirflickr24")).require_input(rows)
    for settings in (SETTINGS.model_copy(update={"backbone": "lite1"}),):
        with pytest.raises(SettingsError, match="--backbone lite1: data is a table of numbers"):
            train(rows, tmp_path / "run", settings)
    with pytest.raises(SettingsError, match="--views 2: data is a table of numbers, which no net"):
        train(rows, tmp_path / "run", SETTINGS.model_copy(update={"views": 2}))


def test_runs_of_other_columns_are_compared(run: Run, table: Path, tmp_path: Path) -> None:
    """Each takes its own features, in its own order; a table that lacks some is refused."""
    frame = draw_table()[["id", "f2", "f0", *LABELS, "split"]]
    frame.to_csv(tmp_path / "few.csv", index=False)
    few = read_dataset(tmp_path / "few.csv", ReadOptions(features=("f2", "f0")))
    other = train(few, tmp_path / "other", SETTINGS).run
    both = read_dataset(table, ReadOptions(labels=run.labels, run_features=("f2", *LEARNED)))
    compared = compare([run, other], both, split="all", resamples=5)
    parts = [one.take_input(both) for one in (run, other)]
    assert [one.feature_names for one in parts] == [run.backbone_spec.features, ("f2", "f0")]
    alone = [
        evaluate(one, part, split="all", resamples=5)
        for one, part in zip((run, other), parts, strict=True)
    ]
    assert list(compared.runs.values()) == [one.models["crf"] for one in alone]
    assert alone[0].models["crf"] != alone[1].models["crf"]
    words = ("compare", run.path, other.path, "--data", table, "--resamples", 5, "--json")
    told = run_program(*words)
    assert told.returncode == 0, told.stderr
    nll = json.loads(told.stdout)["runs"]["other"]["nll"]
    test = parts[1].part(Split.TEST)
    scored = evaluate(other, test, split="test", resamples=5)
    assert nll == pytest.approx(scored.models["crf"].nll)
    refused = run_program("compare", other.path, run.path, "--data", tmp_path / "few.csv")
    assert refused.returncode == 1 and "lacks 2 of the 4 features" in refused.stderr


def test_each_row_is_predicted_or_told(run: Run, tmp_path: Path) -> None:
    """A row whose numbers cannot be used gives its error, and the others their labels."""
    frame = draw_table(6).drop(columns=[*LABELS, "split"]).astype(object)
    frame.loc[1, "f1"] = "n/a"
    frame.loc[2, "depth"] = np.inf
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = read_rows(tmp_path / "t.csv", run.backbone_spec.features)
    predictions = list(Tagger(run).predict(rows, known={rows[3]: {"snow": True}}))
    assert [one.image.name for one in predictions] == [f"s-{at}" for at in range(6)]
    errors = [one.error for one in predictions]
    assert errors[1] == f"s-1: {tmp_path}/t.csv, line 3: feature 'f1' is 'n/a', expected a number"
    assert "feature 'depth' is inf, expected a finite number" in errors[2]
    assert not any(errors[at] for at in (0, 3, 4, 5))
    assert predictions[3].marginals[2] == 1


def test_predict_by_the_command(run: Run, table: Path) -> None:
    """A table in gives the usual table out, with what is known of rows by their ids."""
    out, known = table.parent / "tags.csv", table.parent / "known.csv"
    known.write_text("id,sea\ns-4,1\n")
    result = run_program(
        *("predict", table, "--model", run.path, "--out", out, "--known", known, "--overwrite")
    )
    assert result.returncode == 0, result.stderr
    tags = pd.read_csv(out)
    assert tags["image"].tolist() == [f"s-{row}" for row in range(120)]
    assert tags["p:sea"][4] == 1
    assert tags["p:sea"][5] < 1


@pytest.mark.parametrize("suffix", FEATURE_SUFFIXES)
def test_features_of_a_network_teach_what_its_photos_teach(suffix: str, tmp_path: Path) -> None:
    """Training on saved features gives the run of training on the photos, to the last bit."""
    make_dataset(tmp_path / "data", num_images=40, image_size_px=32)
    photos = read_dataset(tmp_path / "data" / "labels.csv")
    tiny = make_backbone(BackboneSpec("tiny", Source.SCRATCH, 64))
    rows, matrix, _ = make_source(tiny, engine=EngineName.TORCH).readable(photos.images)
    part = photos.rows(np.array(rows))
    names = [image.name for image in part.images]
    path = tmp_path / f"features{suffix}"
    save_features(path, matrix, KnownOfImages(names, part.labels.names, part.targets, part.splits))
    given = None if suffix != ".csv" else ("features*",)
    numbers = read_dataset(path, ReadOptions(features=given))
    assert np.array_equal(numbers.features, matrix)
    assert numbers.splits == photos.splits
    assert numbers.labels == photos.labels
    assert np.array_equal(numbers.targets, photos.targets)
    assert [image.name for image in numbers.images] == names
    if suffix == ".parquet":
        run = train(numbers, tmp_path / "numbers", SETTINGS).run
        with pytest.MonkeyPatch.context() as patch:
            hub = replace(tiny.spec, source=Source.HUB)  # or a network from scratch is refused
            patch.setattr("mlcrf.training.network.find_spec", lambda name, weights, views: hub)
            patch.setattr("mlcrf.training.network.make_backbone", lambda spec, seed: tiny)
            torch_engine = Environment(engine=EngineName.TORCH)
            other = train(photos, tmp_path / "photos", SETTINGS, torch_engine).run
        assert all(
            torch.equal(value, other.crf.state_dict()[key])
            for key, value in run.crf.state_dict().items()
        )
