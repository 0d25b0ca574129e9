"""A page with costs writes the tags without an answer that `mlcrf predict --costs` would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from typer.testing import CliRunner

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.cli import app
from mlcrf.decoding import Costs
from mlcrf.errors import SettingsError
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.xmp import Packet, Property
from mlcrf.prediction import Tagger
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.launch import add_tags, start_review
from mlcrf.review.session import Review
from mlcrf.review.tag_writing import TagWriting
from tests.review.conftest import LABELS, make_folder, make_page, new_request

NAMES = [f"{number}.png" for number in range(12)]
GIVEN = {LABELS[0]: (1, 9), LABELS[1]: (9, 1), LABELS[2]: (1, 1, 0.1), "*": (1, 1)}


@pytest.fixture
def review(small_run: Path, tmp_path: Path) -> Iterator[Review]:
    run = load_run(small_run)
    folder = make_folder(tmp_path / "photos", NAMES)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    costs = Costs.of(GIVEN, run.labels, name="costs.csv")
    yield start_review(folder, run, database, extractor, costs=costs)[0]
    database.close()


def test_it_is_what_predict_writes(small_run: Path, review: Review) -> None:
    """Before anybody has answered; tags that are left open are not written, nor those of yours."""
    add_tags(review, ["Oma"], "ann")
    tagger = Tagger.load(small_run, costs=GIVEN)
    predictions = list(tagger.predict(photo.image for photo in review.photos))
    decided = review.decided(at_least_cost=True)
    rows = [
        tuple(name for name, has in zip(LABELS, row, strict=False) if has)
        for row in decided.tolist()
    ]
    assert rows == [one.labels for one in predictions] and sum(map(len, rows)) > 0
    assert not torch.equal(decided, review.decided(0.5)) and any(
        one.abstained for one in predictions
    )
    assert decided.shape[1] == len(LABELS) + 1 and not decided[:, -1].any()
    assert review.decided().sum() == 0


def test_answers_count(review: Review) -> None:
    """A tag answered no or can't tell is not written, one answered yes is, be it dear or open."""
    add_tags(review, ["Oma"], "ann")
    photo, label = review.decided(at_least_cost=True).nonzero()[0].tolist()
    review.answer(photo, {label: 0, 5: 1}, "ann", new_request())
    row = review.decided(at_least_cost=True)[photo]
    assert not row[label] and row[5]
    review.answer(photo, {label: -1}, "ann", new_request())
    assert not review.decided(at_least_cost=True)[photo, label]


def test_the_page_says_and_writes_them(review: Review) -> None:
    """Over HTTP, and to sidecars; there is no other least probability."""
    decided = review.decided(at_least_cost=True)
    counts = {"photos": int(decided.any(1).sum()), "tags": int(decided.sum())}
    with TestClient(make_page(review), base_url="http://127.0.0.1:8000") as visitor:
        page = visitor.get("/?token=t0ken").text
        assert 'id="write-costs" checked' in page and "<em>costs.csv</em>" in page
        assert 'id="write-likely"' not in page and 'id="write-answered">' in page
        assert visitor.get("/api/decided?at_least_cost=1").json() == counts
    writing = TagWriting(review)
    writing.start(None, new_request(), at_least_cost=True)
    writing._threads.shutdown(wait=True)
    assert writing.status()["files"] == {"new": counts["photos"]}
    place = review.photos[int(decided.any(1).nonzero()[0])].image.path
    assert place is not None
    packet = Packet(load_sidecar(place.with_name(f"{place.name}.xmp")))
    names = [
        name
        for name, has in zip(LABELS, decided[int(decided.any(1).nonzero()[0])], strict=True)
        if has
    ]
    assert sorted(packet.values(Property("dc", "subject"))) == sorted(names)


def test_a_page_without_costs_refuses(review: Review) -> None:
    review.costs = None
    with pytest.raises(SettingsError, match="knows no costs; start it with --costs FILE"):
        review.decided(at_least_cost=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "0.9"], "decides otherwise than --precision and --recall"),
        (["--model", "none"], "with --model none there is none"),
        ([], "unknown label 'sae'"),
    ],
)
def test_refuses(small_run: Path, tmp_path: Path, words: list[str], message: str) -> None:
    folder, costs = make_folder(tmp_path / "photos", NAMES[:1]), tmp_path / "costs.csv"
    costs.write_text("label,false,missed\nsae,1,1\n*,1,1\n")
    model = [] if "--model" in words else ["--model", str(small_run)]
    words = ["review", str(folder), "--costs", str(costs), *model, *words]
    told = CliRunner().invoke(app, [*words, "--db", f"sqlite:///{tmp_path / 'tags.db'}"])
    assert told.exit_code != 0
    assert message in " ".join(f"{told.output} {told.exception}".replace("│", " ").split())
    assert not (tmp_path / "tags.db").exists()
