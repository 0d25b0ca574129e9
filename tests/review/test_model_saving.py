"""What a review has learned becomes a run that says the same."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import EngineName
from mlcrf.errors import DataError, MlcrfError
from mlcrf.prediction import Tagger
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.launch import start_review
from mlcrf.review.model_saving import ModelSaving
from mlcrf.review.session import Review
from tests.review.conftest import make_folder, new_request

COUNT = 12
Starting = Callable[[Run | None], tuple[Review, ModelSaving]]


@pytest.fixture
def starting(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Starting]:
    monkeypatch.chdir(tmp_path)
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    folder = make_folder(tmp_path / "my photos", [f"{n}.png" for n in range(COUNT)])
    any_run = load_run(small_run)
    extractor = FeatureExtractor(any_run.make_backbone(), engine=EngineName.TORCH)

    def start(base: Run | None) -> tuple[Review, ModelSaving]:
        review, _ = start_review(folder, base, database, extractor)
        return review, ModelSaving(review, base, any_run.backbone_spec)

    yield start
    database.close()


def add(review: Review, name: str, yes: list[int], no: list[int]) -> None:
    """Add a tag and answer about it."""
    review.change_tag("anna", new_request(), name=name)
    label = next(at for at, tag in enumerate(review.tags()) if tag.name == name)
    review.answer_many(yes, {label: 1}, "anna", new_request())
    review.answer_many(no, {label: 0}, "anna", new_request())


def save(saving: ModelSaving, name: str, *, replace: bool = False) -> Run:
    saving.start(name, new_request(), replace=replace)
    assert saving._result is not None
    saving._result.result()
    return load_run(Path("runs") / name)


def test_a_saved_model_says_what_the_page_says(starting: Starting) -> None:
    """With renamed tags by their names; those without answers, and retired ones, are not in it."""
    review, saving = starting(None)
    with pytest.raises(DataError, match="nothing is learned yet"):
        saving.start("mine", new_request())
    add(review, "sea", [0, 1, 2, 3], [4, 5, 6, 7])
    add(review, "sun", [0, 1, 2, 4], [3, 5, 6, 7])
    add(review, "dog", [0], [1])
    review.change_tag("anna", new_request(), name="nobody asked")
    review.change_tag("anna", new_request(), key="dog")
    review.change_tag("anna", new_request(), key="sea", name="die See")
    assert review.learn()
    run = save(saving, "mine")
    assert run.labels.names == ("die See", "sun")
    tagger = Tagger(run, engine=EngineName.TORCH)
    (prediction,) = tagger.predict([review.photos[9].image])
    assert prediction.marginals == pytest.approx(review.look(9).marginals[:2], abs=1e-4)
    assert saving.status()["photos"] == 8


def test_tags_of_a_model_that_are_retired_are_left_out(starting: Starting, small_run: Path) -> None:
    review, saving = starting(load_run(small_run))
    add(review, "dog", [0, 1], [2, 3, 4])
    review.change_tag("anna", new_request(), key="indoor")
    assert review.learn()
    run = save(saving, "mine")
    assert run.labels.names == ("sea", "sky", "beach", "<b>bird</b>", "dog")
    assert run.crf.edges.max() < len(run.labels) and run.backbone_weights is not None


def test_places_that_are_refused(starting: Starting, tmp_path: Path) -> None:
    """One line each; what was there stays."""
    review, saving = starting(None)
    add(review, "sea", [0, 1], [2, 3])
    assert review.learn()
    for name in ("", "..", "a/b", "a\\b", ".hidden"):
        with pytest.raises(MlcrfError, match="no slash and does not begin with a dot"):
            saving.start(name, new_request())
    digest = save(saving, "mine").digest
    with pytest.raises(MlcrfError, match="runs/mine: exists already; tick Replace it"):
        saving.start("mine", new_request())
    other = tmp_path / "runs" / "photos"
    make_folder(other, ["a.png"])
    with pytest.raises(MlcrfError, match="it is not a run"):
        saving.start("photos", new_request(), replace=True)
    add(review, "sun", [0, 3], [1, 2])
    assert review.learn()
    assert save(saving, "mine", replace=True).digest != digest
    saving.close()


def test_a_folder_that_cannot_be_written(starting: Starting, tmp_path: Path) -> None:
    review, saving = starting(None)
    add(review, "sea", [0, 1], [2, 3])
    assert review.learn()
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(MlcrfError, match="runs/mine: cannot be made: "):
        save(saving, "mine")
    with pytest.raises(MlcrfError, match="cannot be made"):
        saving.status()
