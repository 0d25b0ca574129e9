"""Tags are people's: added, renamed, merged, retired; answers stay, and several people agree."""

from datetime import UTC, datetime
from math import isnan
from pathlib import Path

import pytest
import torch

from mlcrf.errors import DataError, LabelsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.finding import Filter, Part, State
from mlcrf.review.launch import add_tags
from mlcrf.review.photos import Photo
from mlcrf.review.review_reader import read_review
from mlcrf.review.session import Review
from mlcrf.review.tags import TagEvent, Tags
from tests.making import make_potentials
from tests.review.conftest import new_request
from tests.review.test_review_reader import answered
from tests.review.test_session import start


def without_model(database: ReviewDatabase, count: int = 3) -> Review:
    """A review without a model, whose photos nobody has."""
    files = [Stamped(f"{n}.jpg", "1", f"{n:064x}") for n in range(count)]
    numbers, _ = database.register("/photos", files)
    photos = [
        Photo(number, as_image(f"/photos/{file.path}"), file.path, file.sha256)
        for number, file in zip(numbers, files, strict=True)
    ]
    return Review(photos, (), None, torch.eye(count), database)


def names(review: Review) -> list[str | None]:
    return [tag.name for tag in review.tags()]


def change(review: Review, person: str = "anna", **what: str) -> None:
    review.change_tag(person, new_request(), **what)


def test_from_no_label_at_all(url: str) -> None:
    """Tags that are added are answered, found, undone; what is unknown has no probability."""
    database = ReviewDatabase(url)
    review = without_model(database)
    assert review.look(0).question is None and not review.rank()
    add_tags(review, [" beach", "Oma", "", "BEACH"], "anna")
    assert names(review) == ["beach", "Oma"]
    look = review.answer(1, {0: 1}, "anna", new_request())
    assert look.known == (1, -1) and look.marginals[0] == 1 and isnan(look.marginals[1])
    assert look.state is State.BEGUN and review.tags_of([1]) == [[0]]
    assert review.find(Filter(label=0, part=Part.SURE)) == [1]
    assert review.accept(1, "anna", new_request()).known == (1, -1)
    assert review.answer(1, {1: 0}, "anna", new_request()).state is State.DONE
    assert review.undo("anna", new_request()) == [1] and review.look(1).known == (1, -1)
    again = without_model(database)
    assert names(again) == ["beach", "Oma"] and again.look(1).known == (1, -1)
    database.close()


def test_a_rename_keeps_the_answers_and_a_merge_adds_them(url: str) -> None:
    """Beside a model: its labels are there, keep their numbers, and may be changed like others."""
    database = ReviewDatabase(url)
    review = start(database, make_potentials(2, 5))  # sea, sky, indoor, bird, night
    before = review.look(0).marginals
    change(review, name="gull")
    review.answer(0, {5: 1}, "anna", new_request())
    assert review.look(0).marginals[:5] == before
    change(review, key="gull", name="Seagull")
    assert names(review)[5] == "Seagull" and review.look(0).known[5] == 1
    change(review, key="gull", into="bird")
    look = review.look(0)
    assert names(review)[3:] == ["bird", "night", None]
    assert look.known[3] == 1 and look.marginals[3] == 1 and look.marginals[:3] != before[:3]
    with pytest.raises(DataError, match="no tag 'gull' any more"):
        review.tag_number("gull")
    change(review, key="sky", name="heaven")
    assert names(review)[1] == "heaven" and review.tag_number("sky") == 1
    database.close()


def test_a_retired_tag_is_neither_asked_nor_lost(url: str) -> None:
    """It is settled without it; adding its name brings it back with its answers."""
    database = ReviewDatabase(url)
    review = start(database, make_potentials(1, 5))
    review.answer(0, {0: 1}, "anna", new_request())
    for key in ("sea", "sky"):
        change(review, key=key)
    assert names(review) == [None, None, "indoor", "bird", "night"]
    assert review.look(0).question in (2, 3, 4) and 0 not in review.tags_of([0])[0]
    assert review.accept(0, "anna", new_request()).state is State.DONE
    change(review, name="sea")
    assert names(review)[:2] == ["sea", None] and review.look(0).known[0] == 1
    database.close()


def test_several_people_change_tags(url: str) -> None:
    """Another server sees them at once; the same act counts once; names stay distinct."""
    databases = [ReviewDatabase(url), ReviewDatabase(url)]
    first, second = map(without_model, databases)
    request = new_request()
    for _ in range(2):
        first.change_tag("anna", request, name="beach")
    assert names(second) == ["beach"]
    version = second.progress()["tags"]
    change(second, "ben", key="beach", name="shore")
    assert names(first) == ["shore"] and first.progress()["tags"] > version
    change(first, name="beach")  # a new one: the key of the other stays in use
    assert [tag.key for tag in second.tags()] == ["beach", "beach (2)"]
    for wrong in ("Shore", "a;b", " ", "x" * 2000):
        with pytest.raises(LabelsError):
            change(first, name=wrong)
    with pytest.raises(DataError):
        change(first, key="beach", into="beach")
    change(first, key="beach", into="beach (2)")
    with pytest.raises(DataError, match="any more"):
        change(second, key="beach", name="x")
    for database in databases:
        database.close()


def test_two_that_are_merged_into_each_other_are_one() -> None:
    """As two people may do at the same moment."""
    at = datetime.now(UTC)
    tags = Tags()
    tags.tell(
        TagEvent(number, key, None, into, "anna", at, str(number))
        for number, (key, into) in enumerate([("a", "b"), ("b", "a"), ("c", "a")], start=1)
    )
    assert {tags.resolve(key) for key in "abc"} == {"a"} and tags.named("abc") == {"a": "a"}


def test_training_reads_tags_by_their_names(tmp_path: Path) -> None:
    """Renamed, merged and retired as on the page; the model's label finds a renamed tag too."""
    url = f"sqlite:///{tmp_path / 'tags.db'}"
    answered(tmp_path / "photos", url)
    database = ReviewDatabase(url)
    for act in (("sea", "ocean", None), ("bird", None, "sea"), ("sky", None, None)):
        database.tag(*act, "anna", new_request())
    database.close()
    manifest = read_review(url)
    assert manifest.labels.names == ("ocean",)
    # birds of the first three count, but for a later "cannot tell" about the sea of the second
    assert manifest.targets[:4, 0].tolist() == [1, -1, 1, 1]
    named = read_review(url, labels=LabelSpace(("sea", "sky")))
    assert named.targets[3].tolist() == [1, 0]
