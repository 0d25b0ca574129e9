"""Training on answers: partly labelled as they are, conflicts unknown, moved photos found."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mlcrf.checkpoint import load_run
from mlcrf.cli import app
from mlcrf.data.manifest import Manifest
from mlcrf.errors import DatabaseError, DataError, MlcrfError
from mlcrf.images.pixels import load_pixels
from mlcrf.labels import LabelSpace
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import find_photos
from mlcrf.review.review_reader import correct, read_archive, read_review
from tests.review.conftest import LABELS, make_folder, new_request


def answered(folder: Path, url: str, count: int = 14) -> None:
    """sea of all photos, sky of the first ten, bird of three; a conflict and a can't tell."""
    make_folder(folder, [f"{n:02}.png" for n in range(count)] + ["never.png"])
    database = ReviewDatabase(url)
    photos, _ = find_photos(folder, database)
    for n, photo in enumerate(photos[:count]):
        values = (
            {"sea": n % 2} | ({"sky": n % 3 % 2} if n < 10 else {}) | ({"bird": 1} if n < 3 else {})
        )
        database.add(photo.id, values, "anna", new_request())
    database.add(photos[0].id, {"sea": 1}, "ben", new_request())
    database.add(photos[1].id, {"sea": -1}, "anna", new_request())
    database.close()


def test_answers_become_targets(tmp_path: Path) -> None:
    """1, 0, and unknown for conflicts, for what cannot be told and for what nobody answered."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url)
    manifest = read_review(url)
    assert manifest.labels.names == ("sea", "sky")
    assert [image.file_name for image in manifest.images] == [f"{n:02}.png" for n in range(14)]
    assert manifest.targets[:5].tolist() == [[-1, 0], [-1, 1], [0, 0], [1, 0], [0, 1]]
    assert manifest.targets[10:].tolist() == [[0, -1], [1, -1], [0, -1], [1, -1]]
    assert "labels that people contradict each other on, unknown here: 1" in manifest.notes
    assert "labels with fewer than 10 answers are left out: bird" in manifest.notes
    named = read_review(url, labels=LabelSpace(("bird", "sea")))
    assert named.targets[:4].tolist() == [[1, -1], [1, -1], [1, 0], [-1, 1]]


def test_answers_correct_a_table(tmp_path: Path) -> None:
    """A clear answer replaces the annotation; conflicts, can't tell and no answer leave it."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url)
    names = ["00.png", "01.png", "02.png", "03.png", "never.png"]
    frame = pd.DataFrame({"image": [folder / name for name in names]} | {"sea": 1, "sky": pd.NA})
    manifest, changed = correct(Manifest.from_frame(frame), url)
    assert manifest.targets.tolist() == [[1, 0], [1, 1], [0, 0], [1, 0], [1, -1]]
    assert changed == 5
    refused = CliRunner().invoke(app, ["audit", "table.csv", "--corrected", "new.csv"])
    assert str(refused.exception).startswith("--corrected: needs --answers DATABASE")


def test_moved_photos_keep_their_answers(tmp_path: Path) -> None:
    """Renamed, in another folder, one of them gone: the targets follow the pictures."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url)
    first = read_review(url)
    before = {
        load_pixels(image, 8).tobytes(): row.tolist()
        for image, row in zip(first.images, first.targets, strict=True)
    }
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    folder.rename(moved)
    for path in sorted(moved.iterdir()):
        path.rename(moved / f"new-{path.name}")
    (moved / "new-13.png").unlink()
    with pytest.raises(DataError, match="its folders are not here"):
        read_review(url)
    manifest = read_review(url, [moved.parent])
    assert len(manifest) == 13
    for image, row in zip(manifest.images, manifest.targets, strict=True):
        assert before[load_pixels(image, 8).tobytes()] == row.tolist()
    assert "photos with answers that are not in these folders: 1" in manifest.notes


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    """No database, no answers, too few: one line that says what to do."""
    url = f"sqlite:///{tmp_path / 'tags.db'}"
    with pytest.raises(DatabaseError, match="no such file"):
        read_review(url)
    folder = make_folder(tmp_path / "photos", ["1.png"])
    database = ReviewDatabase(url)
    (photo,), _ = find_photos(folder, database)
    with pytest.raises(DataError, match="has no answers about these photos"):
        read_review(url, [folder])
    database.add(photo.id, {"sea": 1}, "anna", new_request())
    database.close()
    with pytest.raises(DataError, match="no label has 10 answers"):
        read_review(url)


def test_train_from_review(tmp_path: Path) -> None:
    """The command trains a run whose labels are those answered."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url, count=30)
    words = ["train", "--from-review", url, "--out", tmp_path / "run", "--backbone", "tiny"]
    words += [
        "--finetune",
        "all",
        "--epochs",
        1,
        "--engine",
        "torch",
        "--cache-dir",
        tmp_path / "c",
    ]
    words += ["--set", "penalties=[0.1]", "--set", "pairwise_penalties=[0.01]", "--json"]
    words += ["--set", "structure_weights=[1]", "--set", "schedule=joint"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "labels.txt").read_text() == "sea\nsky\n"
    assert sum(json.loads((tmp_path / "run" / "metrics.json").read_text())["images"].values()) == 30
    tags = tmp_path / "tags.csv"
    words = ["predict", folder, "--model", tmp_path / "run", "--out", tags, "--known", url]
    result = CliRunner().invoke(app, [*map(str, words), "--engine", "torch"])
    assert result.exit_code == 0, result.output
    row = {Path(one["image"]).name: one for one in csv.DictReader(tags.open())}
    assert [row[f"{n:02}.png"]["p:sea"] for n in (2, 3)] == ["0", "1"]
    assert row["03.png"]["p:sky"] == "0"
    assert row["never.png"]["p:sea"] not in ("0", "1")
    missing = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "other")])
    assert missing.exit_code == 2 and "--from-review DB" in missing.output


def test_all_photos_with_the_labels_of_a_run_first(tmp_path: Path, small_run: Path) -> None:
    """A tag is named as people named it; a retired one keeps its place, and says nothing."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url)
    database = ReviewDatabase(url)
    for key, name in (("bird", "Vogel"), ("sky", None), ("beach", "shore"), ("dog", "dog")):
        database.tag(key, name, None, "anna", new_request())
    database.close()
    archive = read_archive(url, load_run(small_run))
    assert archive.labels.names == ("sea", "sky", "shore", *LABELS[3:], "Vogel")
    assert len(archive) == 15
    assert archive.targets[:, 0].tolist() == [-1, -1, *[0, 1] * 6, -1]
    assert (archive.targets[:, 1:5] == -1).all()  # retired, or without answer
    assert archive.targets[:, 5].tolist() == [1, 1, 1, *[-1] * 12]
    assert read_archive(url, None).labels.names == ("sea", "Vogel")


def test_train_from_review_starts_from_a_run(tmp_path: Path, small_run: Path) -> None:
    """Tags are added to its labels; the command can be repeated to the same bits."""
    folder, url = tmp_path / "photos", f"sqlite:///{tmp_path / 'tags.db'}"
    answered(folder, url, count=30)
    (folder / "broken.jpg").write_bytes(b"no image")
    runtime = ["--engine", "torch", "--cache-dir", str(tmp_path / "cache")]
    start = ["train", "--from-review", url, "--model", str(small_run)]
    result = CliRunner().invoke(app, [*start, "--out", str(tmp_path / "one"), *runtime])
    assert result.exit_code == 0, result.output
    assert "answers about known labels: left-out loss" in result.output
    one = load_run(tmp_path / "one")
    assert one.labels.names == (*LABELS, "bird")
    config = ["train", "--config", str(tmp_path / "one" / "config.json")]
    result = CliRunner().invoke(app, [*config, "--out", str(tmp_path / "two"), *runtime])
    assert result.exit_code == 0, result.output
    assert "have changed" not in result.output
    assert load_run(tmp_path / "two").digest == one.digest
    result = CliRunner().invoke(app, [*start, "--out", str(tmp_path / "3"), "--epochs", "2"])
    assert result.exit_code == 2 and "--model learns from the answers alone" in result.output
    with pytest.raises(MlcrfError, match=f"mlcrf extend {small_run} {folder} --out NEW"):
        CliRunner().invoke(
            app,
            ["train", str(folder), "--model", str(small_run), "--out", str(tmp_path / "3")],
            catch_exceptions=False,
        )
