"""Likely label errors as the first questions of a review."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.errors import DataError
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.finding import Filter, Order
from mlcrf.review.launch import add_suspects, start_review
from mlcrf.review.session import Review
from mlcrf.review.suspects import read_suspects
from tests.review.conftest import make_folder, new_request

HEADER = "image,label,given,p_image,p_others,score,suggestion,because\n"


@pytest.fixture
def review(tmp_path: Path, small_run: Path) -> Iterator[Review]:
    folder = make_folder(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    run, database = load_run(small_run), ReviewDatabase(str(tmp_path / "tags.db"))
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    yield start_review(folder, run, database, extractor)[0]
    database.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label,given\na.png,sea,1\n", r":1: has no column p_others, because; expected a"),
        (HEADER, r"csv: has no rows"),
        (HEADER + "a.png,sea,2,0,0,1,0,\n", r":2: given: expected 0 or 1, got '2'"),
        (HEADER + "a.png,sea,1,0,often,1,0,\n", r":2: p_others: expected a probability, got 'o"),
        (HEADER + "a.png, ,1,0,0,1,0,\n", r":2: expected an image and a label"),
    ],
)
def test_what_is_no_table_of_suspects(tmp_path: Path, text: str, message: str) -> None:
    """One line with the file and its line."""
    table = tmp_path / "suspects.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        read_suspects(table)
    assert "\n" not in str(raised.value)


def test_they_are_asked_about_in_order(review: Review, tmp_path: Path) -> None:
    """By photo and tag, a copy and a new tag too; an answer settles one, until it is undone."""
    shutil.copy(tmp_path / "photos" / "c.png", tmp_path / "copy.png")
    table = tmp_path / "suspects.csv"
    table.write_text(
        f"{HEADER}photos/b.png,sea,1,0.1,0.02,0.98,0,indoor=1 (+2.1)\n"
        "absent.png,sea,1,0.1,0.03,0.97,0,\n"
        f"{tmp_path}/copy.png,Oma,0,0.9,0.96,0.96,1,\n"
        "photos/b.png,sky,1,0.1,0.05,0.95,0,\n"
    )
    (note,) = add_suspects(review, read_suspects(table), "anna")
    assert note.startswith(f"{table}:3: ") and note.endswith("suspects left out for this: 1")
    oma = review.tag_number("Oma")
    assert [(one.tag, one.row.because) for one in review.suspects.of_photo(1)] == [
        (review.tag_number("sea"), "indoor=1 (+2.1)"),
        (review.tag_number("sky"), ""),
    ]
    wanted = Filter(order=Order.SUSPECTS)
    assert review.find(wanted) == [1, 2]
    review.answer(1, {review.tag_number("sea"): 0}, "anna", new_request())
    assert review.find(wanted) == [2, 1]
    review.answer(2, {oma: -1}, "anna", new_request())
    assert review.find(wanted) == [1]
    counts = review.progress()
    assert (counts["suspects_settled"], counts["suspects"]) == (2, 3)
    review.undo("anna", new_request())
    assert review.find(wanted) == [2, 1]
    review.change_tag("anna", new_request(), key="Oma")  # retired
    assert review.find(wanted) == [1]


def test_none_of_their_images_is_there(review: Review, tmp_path: Path) -> None:
    """The first of them is named, with its line."""
    table = tmp_path / "suspects.csv"
    table.write_text(f"{HEADER}b.png,sea,1,0,0,1,0,\n")
    with pytest.raises(DataError, match=r"csv:2: .*b\.png is not among the photos, nor is any"):
        add_suspects(review, read_suspects(table), "anna")
