"""A review that learns its tags from answers."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mlcrf.images import as_image
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.finding import Filter, Order
from mlcrf.review.learning import TOO_FEW, Learner
from mlcrf.review.photos import Photo
from mlcrf.review.session import Review

COUNT, SIZE = 120, 8


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ReviewDatabase]:
    opened = ReviewDatabase(str(tmp_path / "tags.db"))
    yield opened
    opened.close()


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(COUNT, SIZE, generator=generator)


def start(database: ReviewDatabase) -> Review:
    """A review without a model; photos of the sea have a first feature above 0."""
    files = [Stamped(f"im{n}.jpg", "1", f"{n:064x}") for n in range(COUNT)]
    numbers, _ = database.register("/photos", files)
    photos = [
        Photo(number, as_image(f"/photos/{file.path}"), file.path, file.sha256)
        for number, file in zip(numbers, files, strict=True)
    ]
    return Review(
        photos,
        (),
        None,
        features(),
        database,
        make_learner=lambda: Learner(features(), None),
    )


def teach(review: Review, numbers: list[int], label: int, value: int) -> None:
    review.answer_many(numbers, {label: value}, "anna", secrets.token_hex(16))


def test_the_rest_of_the_archive_follows(database: ReviewDatabase) -> None:
    review = start(database)
    assert not review.learn()
    review.change_tag("anna", secrets.token_hex(16), name="sea")
    assert not review.learn()  # no answer yet
    sea = features()[:, 0] > 0
    teach(review, [n for n in range(40) if sea[n]], 0, 1)
    teach(review, [n for n in range(40) if not sea[n]], 0, 0)
    assert review.learn()
    assert not review.learn()
    rest = range(40, COUNT)
    right = [(review.belief(n, 0)[0] > 0.5) == bool(sea[n]) for n in rest]
    assert sum(right) > 0.85 * len(right)
    assert review.belief(0, 0) == (float(sea[0]), int(sea[0]))
    assert review.progress()["lessons"] == 2  # and the tag was judged
    (tag,) = review.tags()
    assert tag.quality is not None and tag.quality.startswith("of ")
    likely = review.find(Filter(label=0, order=Order.LIKELY))
    assert sea[likely[0]] and not sea[likely[COUNT - 41]]


def test_answers_given_while_it_learns_are_not_lost(
    database: ReviewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = start(database)
    review.change_tag("anna", secrets.token_hex(16), name="sea")
    teach(review, [0, 1, 2], 0, 1)
    teach(review, [3, 4, 5], 0, 0)
    learn = Learner.learn

    def slowly(self: Learner, answers: torch.Tensor) -> object:
        lesson = learn(self, answers)
        review.change_tag("anna", secrets.token_hex(16), name="night")
        teach(review, [7], 0, 1)
        teach(review, [7], 1, 1)
        return lesson

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", slowly)
        assert review.learn()
    assert review.belief(7, 0) == (1.0, 1)
    assert review.belief(7, 1) == (1.0, 1)
    assert review.belief(8, 1)[0] != review.belief(8, 1)[0]  # NaN: not learned yet
    assert review.learn()
    assert 0 < review.belief(8, 1)[0] < 1
    assert [tag.quality for tag in review.tags()] == [review.tags()[0].quality, TOO_FEW]


def test_answers_and_undo_change_what_was_learned(database: ReviewDatabase) -> None:
    review = start(database)
    review.change_tag("anna", secrets.token_hex(16), name="sea")
    teach(review, [0, 1, 2], 0, 1)
    teach(review, [3, 4, 5], 0, 0)
    review.learn()
    before = review.belief(9, 0)
    teach(review, list(range(10, 30)), 0, 1)
    review.learn()
    assert review.belief(9, 0) != before
    review.undo("anna", secrets.token_hex(16))
    review.learn()
    assert review.belief(9, 0)[0] == pytest.approx(before[0], abs=1e-9)


def test_a_review_asks_and_explains_what_it_has_learned(database: ReviewDatabase) -> None:
    review = start(database)
    for name in ("unused", "sea", "night"):
        review.change_tag("anna", secrets.token_hex(16), name=name)
    for label in (1, 2):
        teach(review, [0, 1, 2], label, 1)
        teach(review, [3, 4, 5], label, 0)
    review.learn()
    look = review.look(50)
    assert look.question in (1, 2) and look.information > 0
    while review.rank():
        pass
    assert review.progress()["ranked"] == COUNT
    assert review.find(Filter())[0] not in range(6)
    reasons = review.explain(50, 2)
    assert abs(reasons.log_odds - torch.tensor(look.marginals[2]).logit()) < 1e-4


def test_rough_marginals_are_refined_when_a_photo_is_looked_at(
    database: ReviewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlcrf.review.beliefs._MOST_SURVEYED", 0)
    review = start(database)
    for name in ("sea", "night"):
        review.change_tag("anna", secrets.token_hex(16), name=name)
    night = features()[:, 0] > 0.2
    for n in range(60):
        teach(review, [n], 0, int(features()[n, 0] > 0))
        teach(review, [n], 1, int(night[n]))
    review.learn()
    rough = review.belief(100, 1)[0]
    look = review.look(100)
    beliefs = review._beliefs.beliefs
    assert isinstance(beliefs, Beliefs)
    exact, _ = beliefs.marginals(torch.tensor([100]), torch.full((1, 2), -1))
    assert look.marginals[1] == pytest.approx(float(exact[0, 1]))
    assert look.marginals[1] == pytest.approx(rough, abs=0.1)
