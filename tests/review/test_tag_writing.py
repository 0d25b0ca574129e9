"""Decided tags become sidecars as those of `mlcrf tag`, and go again by its --undo."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mlcrf.cli import app
from mlcrf.crf import Potentials
from mlcrf.errors import DataError, LabelsError
from mlcrf.inference import Exact
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.xmp import OURS, Packet, Property
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import find_photos
from mlcrf.review.session import Review
from mlcrf.review.tag_writing import TagWriting
from mlcrf.rules import Limit, Rules
from tests.review.conftest import make_folder, new_request

LABELS = ("plant_life", "tree", "sky")
TREE_IMPLIES_PLANT = Rules(((1, 0),))


@pytest.fixture
def review(tmp_path: Path) -> Iterator[Review]:
    """Three photos; the model finds sky on the second, and on no other photo anything."""
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    folder = make_folder(tmp_path / "my photos", ["a.png", "b.png", "sub/c.png"])
    photos, _ = find_photos(folder, database)
    unary = torch.full((3, 3), -4.0)
    unary[1, 2] = 4.0
    potentials = Potentials(unary, torch.tensor([[0, 2]]), torch.tensor([0.0]), TREE_IMPLIES_PLANT)
    yield Review(photos, LABELS, Beliefs(Exact(), potentials), unary, database)
    database.close()


def write(review: Review, least: float | None = None) -> Any:
    """Write and wait until that is done; the status."""
    writing = TagWriting(review)
    writing.start(least, new_request())
    writing._threads.shutdown(wait=True)
    return writing.status()


def keywords(folder: Path) -> dict[str, set[str]]:
    """Of all sidecars."""
    subject = Property("dc", "subject")
    return {
        path.relative_to(folder).as_posix(): set(Packet(load_sidecar(path)).values(subject))
        for path in folder.rglob("*.xmp")
    }


def test_decided_tags_are_written_and_undone(review: Review, tmp_path: Path) -> None:
    """Those answered yes and what they imply, by the names that people see; with a threshold more.

    Answers that are taken back take their keywords with them.
    """
    folder = tmp_path / "my photos"
    before = sorted(folder.rglob("*"))
    review.answer(0, {1: 1, 2: 0}, "anna", new_request())
    status = write(review)
    assert keywords(folder) == {"a.png.xmp": {"plant life", "tree"}}
    assert status["files"] == {"new": 1} and (status["left_alone"], status["failed"]) == (2, 0)
    packet = Packet(load_sidecar(folder / "a.png.xmp"))
    assert packet.values(Property(OURS, "taggedBy")) == ["mlcrf review"]
    status = write(review, 0.9)
    assert keywords(folder) == {"a.png.xmp": {"plant life", "tree"}, "b.png.xmp": {"sky"}}
    assert status["files"] == {"new": 1, "unchanged": 1} and status["left_alone"] == 2
    review.answer(0, {1: 0}, "anna", new_request())
    assert write(review, 0.9)["files"] == {"deleted": 1, "unchanged": 1}
    assert status["undo"] == f"mlcrf tag '{folder}' --undo"
    assert CliRunner().invoke(app, ["tag", str(folder), "--undo"]).exit_code == 0
    assert sorted(folder.rglob("*")) == before


def test_what_cannot_be_written_is_counted(review: Review, tmp_path: Path) -> None:
    """One line names the first; the others are written."""
    folder = tmp_path / "my photos"
    (folder / "a.png.xmp").mkdir()
    review.answer_many([0, 2], {2: 1}, "anna", new_request())
    status = write(review)
    assert status["files"] == {"new": 1} and (status["left_alone"], status["failed"]) == (1, 1)
    assert "a.png.xmp: cannot be written: it is no regular file" in status["error"]
    assert keywords(folder / "sub") == {"c.png.xmp": {"sky"}}


def test_what_is_not_begun(review: Review, tmp_path: Path) -> None:
    """Nothing decided, a name that no keyword can have; an act that is sent again acts once."""
    writing = TagWriting(review)
    with pytest.raises(DataError, match="no tag is decided"):
        writing.start(None, new_request())
    review.change_tag("anna", new_request(), key="sky", name="sky|blue")
    review.answer(0, {2: 1}, "anna", new_request())
    with pytest.raises(LabelsError, match=r"tag 'sky\|blue': \| separates levels .* another name"):
        writing.start(None, new_request())
    assert writing.status() == {"is_running": False, "done": 0, "total": 0}
    review.change_tag("anna", new_request(), key="sky", name="sky")
    request = new_request()
    writing.start(None, request)
    first = writing._result
    writing.start(None, request)
    assert writing._result is first and first is not None
    first.result()
    writing.close()
    assert keywords(tmp_path) == {"my photos/a.png.xmp": {"sky"}}


def test_likely_tags_keep_to_limits(tmp_path: Path) -> None:
    """Of tags that exclude each other the likelier one is written, or the one answered yes."""
    rules = Rules((), (Limit((1, 2), 0, 1), Limit((0, 1), 1, 2)))  # so without tree, plant_life
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    photos, _ = find_photos(make_folder(tmp_path / "mine", ["a.png", "b.png"]), database)
    unary = torch.tensor([[-4.0, 1.0, 6.0], [-4.0, 1.0, 6.0]])
    edges = torch.empty((0, 2), dtype=torch.int64)
    potentials = Potentials(unary, edges, torch.empty(0), rules)
    review = Review(photos, LABELS, Beliefs(Exact(), potentials), unary, database)
    assert review.decided().sum() == 0  # nobody has answered, and nothing is complete
    assert review.decided(0.1).tolist() == [[True, False, True], [True, False, True]]
    look = review.answer(0, {1: 1, 2: 1}, "ann", new_request())
    assert look.contradicts == {1, 2}
    review.answer(0, {2: None}, "ann", new_request())
    assert review.decided(0.1).tolist()[0] == [False, True, False]
    database.close()
