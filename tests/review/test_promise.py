"""A page with a promise writes, and calls sure, what `mlcrf predict` would write with it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor
from typer.testing import CliRunner

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.calibration import Calibration, save_calibration
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import EngineName, PrecisionOf
from mlcrf.cli import app
from mlcrf.crf import UNKNOWN, Potentials, full_edges
from mlcrf.decoding import Decoder, Guarantee
from mlcrf.errors import MlcrfWarning, SettingsError
from mlcrf.inference import Exact
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.xmp import OURS, Packet, Property
from mlcrf.prediction import Tagger
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.finding import Filter, Order, Part, TagColumn
from mlcrf.review.launch import start_review
from mlcrf.review.promise import Promise
from mlcrf.review.session import Review
from mlcrf.review.tag_writing import TagWriting
from mlcrf.rules import Rules
from tests.review.conftest import LABELS, make_folder, make_page, new_request

NAMES = [f"{number}.png" for number in range(12)]
PRECISION = Guarantee(precision=0.6)


@pytest.fixture(scope="module")
def calibrated(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run with calibration images whose labels are drawn from what it says of them.

    Of bird no image has any: nothing can be promised of it.
    """
    folder = tmp_path_factory.mktemp("calibrated") / "small"
    shutil.copytree(small_run, folder)
    run = load_run(folder)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, run.make_backbone().num_features, generator=generator)
    method = run.make_inference()
    with torch.no_grad():
        potentials = run.crf(features)
        marginals = method(potentials).marginals.float()
    targets = Exact().sample(potentials, 1, generator)[0].to(torch.int8)
    targets[:, -1] = 0
    scores = {"crf": marginals, "independent": marginals.clone()}
    save_calibration(
        folder, Calibration(scores, targets, "drawn", of_final=True, run=run.weights_digest)
    )
    return folder


@dataclass(frozen=True)
class Place:
    """A folder of photos, and a review of it."""

    folder: Path
    review: Review


@contextmanager
def reviewing(path: Path, place: Path, guarantee: Guarantee | None) -> Iterator[Place]:
    run: Run = load_run(path)
    place.mkdir(exist_ok=True)
    database = ReviewDatabase(str(place / "tags.db"))
    folder = make_folder(place / "photos", NAMES)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    decoder = None if guarantee is None else run.make_decoder(Decoder.promising(guarantee))
    yield Place(folder, start_review(folder, run, database, extractor, decoder=decoder)[0])
    database.close()


@pytest.fixture
def place(calibrated: Path, tmp_path: Path) -> Iterator[Place]:
    with reviewing(calibrated, tmp_path, PRECISION) as found:
        yield found


def promise_of(review: Review) -> Promise:
    assert review.promise is not None
    return review.promise


@pytest.mark.parametrize("asked", [{"precision": 0.6}, {"recall": 0.8}])
def test_it_is_what_predict_writes(
    calibrated: Path, tmp_path: Path, asked: dict[str, float]
) -> None:
    """Before anybody has answered: the same tags; bird is left out."""
    with reviewing(calibrated, tmp_path, Guarantee(**asked)) as place:
        review = place.review
        with pytest.warns(MlcrfWarning, match="cannot be had for 1 of 5 labels"):
            tagger = Tagger.load(calibrated, **asked)  # type: ignore[arg-type]
        written = [one.labels for one in tagger.predict(photo.image for photo in review.photos)]
        decided = review.decided(promised=True)
        names = [
            tuple(name for name, has in zip(LABELS, row, strict=True) if has)
            for row in decided.tolist()
        ]
        assert names == written and sum(map(len, names)) > 0
        assert review.promised_counts() == (int(decided.sum()), int(decided.any(1).sum()))
        assert promise_of(review).left_out == ("<b>bird</b>",)
        assert review.decided().sum() == 0


def test_answers_overrule_it(place: Place) -> None:
    """An answer of no or can't tell removes a promised tag, one of yes adds another."""
    review = place.review
    before = review.decided(promised=True)
    photo, label = before.nonzero()[0].tolist()
    assert review.look(photo).promised[label]
    look = review.answer(photo, {label: 0, 4: 1}, "ann", new_request())
    assert not look.promised[label] and not look.promised[4]
    row = review.decided(promised=True)[photo]
    assert not row[label] and row[4]
    review.answer(photo, {label: -1}, "ann", new_request())
    assert not review.decided(promised=True)[photo, label]
    others = torch.arange(len(NAMES)) != photo
    assert torch.equal(review.decided(promised=True)[others], before[others])
    review.undo("ann", new_request())
    review.undo("ann", new_request())
    assert torch.equal(review.decided(promised=True), before)


def test_a_probability_does_not_keep_a_promise(place: Place, calibrated: Path) -> None:
    """Neither is written by the other's rule."""
    with pytest.raises(SettingsError, match="promises precision 60 %, which a probability does"):
        place.review.decided(0.9)
    with (
        reviewing(calibrated, place.folder.parent / "other", None) as other,
        pytest.raises(SettingsError, match="promises nothing; start it with --precision"),
    ):
        other.review.decided(promised=True)


def test_only_promised_tags_are_sure(place: Place) -> None:
    """In the parts of a tag's photos, each of which is in one part; recall calls nothing sure."""
    review = place.review
    promised = review.decided(promised=True)
    label = int(promised.sum(0).argmax())
    parts = [part for part in Part if part is not Part.OPEN]
    found = [review.find(Filter(label, part, order=Order.LIKELY)) for part in parts]
    assert sorted(found[0]) == promised[:, label].nonzero().squeeze(1).tolist()
    assert sorted(chain.from_iterable(found)) == list(range(len(NAMES)))
    review.promise = replace(promise_of(review), tags=promised & False)
    review._beliefs.marginals[0, label] = 0.99
    assert review.find(Filter(label, Part.SURE, order=Order.LIKELY)) == []
    assert 0 in review.find(Filter(label, Part.LIKELY, order=Order.LIKELY))
    column = TagColumn(
        torch.tensor([0.95, 0.95, 0.6, 0.2]),
        torch.full((4,), UNKNOWN),
        torch.zeros(4, dtype=torch.bool),
        is_sure=torch.tensor([True, False, True, False]),
    )
    assert column.has_part(Part.SURE).tolist() == [True, False, True, False]
    assert column.has_part(Part.LIKELY).tolist() == [False, True, False, False]
    assert column.has_part(Part.UNCERTAIN).tolist() == [False] * 4
    assert column.has_part(Part.UNLIKELY).tolist() == [False, False, False, True]


def test_the_page_says_and_writes_it(place: Place) -> None:
    """Tags promised and left out; sidecars that name the promise; no other least probability."""
    review = place.review
    tags, photos = review.promised_counts()
    with TestClient(make_page(review), base_url="http://127.0.0.1:8000") as visitor:
        page = visitor.get("/?token=t0ken").text
        assert "at least 60 % of each tag are right, with confidence 90 %" in page
        assert "\\u003cb\\u003ebird" in page and 'id="write-likely"' not in page
        counts = visitor.get("/api/decided?promised=1").json()
        assert counts == {"photos": photos, "tags": tags}
        refused = visitor.get("/api/decided?least=0.9")
        assert refused.status_code == 422 and "precision 60 %" in refused.json()["error"]
        number = int(review.decided(promised=True).any(1).nonzero()[0])
        shown = visitor.get(f"/api/photos/{review.photos[number].id}").json()["photo"]["labels"]
        assert [one["promised"] for one in shown] == review.decided(promised=True)[number].tolist()
    writing = TagWriting(review)
    writing.start(None, new_request(), promised=True)
    writing._threads.shutdown(wait=True)
    assert writing.status()["files"] == {"new": photos}
    packet = Packet(load_sidecar(next(place.folder.glob("*.xmp"))))
    assert packet.values(Property(OURS, "taggedBy")) == ["mlcrf review"]
    assert packet.values(Property("dc", "subject"))


@pytest.mark.parametrize("of", list(PrecisionOf))
def test_the_promise_stands_whatever_is_answered(of: PrecisionOf) -> None:
    """Over 100 draws of calibration images, where people have answered a third, and rightly."""
    generator = torch.Generator().manual_seed(0)
    potentials = Potentials(
        2 * torch.randn(3000, 4, generator=generator),
        full_edges(4),
        torch.tensor([2.0, -2.0, 1.0, 0.0, -1.0, 1.5]),
    )
    targets = Exact().sample(potentials, 1, generator)[0].long()
    answered = torch.rand(targets.shape, generator=generator) < 1 / 3
    known = torch.where(answered, targets, UNKNOWN)
    alone, given = (Exact()(potentials, known=one).marginals for one in (None, known))
    asked = Decoder.promising(Guarantee(precision=0.9, of=of))
    broken = torch.zeros(4 if of is PrecisionOf.LABEL else 1)
    open_tags = 0
    for _ in range(100):
        rows = torch.randperm(3000, generator=generator)[:500]
        decoder = asked.calibrated(alone[rows], targets[rows], Rules(), "drawn")
        chosen = decoder(Exact()(potentials), potentials, Exact()) == 1
        promise = Promise(decoder, chosen, alone.float(), ("a", "b", "c", "d"), 500)
        written = promise.open_tags(answered, given)
        assert not bool((written & answered).any()) and bool((chosen | ~written).all())
        open_tags += int(written.sum())
        written |= answered & (targets == 1)
        axis = 0 if of is PrecisionOf.LABEL else (0, 1)
        broken += (written & (targets == 1)).sum(axis) / written.sum(axis) < 0.9
    assert open_tags > 0 and bool((broken <= 10).all())


def test_answers_that_speak_against_a_tag_remove_it() -> None:
    """Of a precision where it is less likely than not, of a recall where it is impossible."""
    tags = torch.ones(1, 4, dtype=torch.bool)
    before, now = torch.tensor([[0.95, 0.95, 0.4, 0.95]]), torch.tensor([[0.45, 0.0, 0.4, 0.6]])
    answered = torch.zeros(1, 5, dtype=torch.bool)  # the last tag is one of people's own

    def left(guarantee: Guarantee) -> list[bool]:
        decoder = Decoder.promising(guarantee)
        promise = Promise(decoder, tags, before, ("a", "b", "c", "d"), 100)
        marginals: Tensor = torch.cat([now.double(), torch.ones(1, 1)], 1)
        kept: list[bool] = promise.open_tags(answered, marginals)[0].tolist()
        return kept

    assert left(Guarantee(precision=0.9)) == [False, False, True, True, False]
    assert left(Guarantee(recall=0.9)) == [True, False, True, True, False]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--precision", "0.9", "--model", "none"], "with --model none there is none"),
        (["--precision", "2"], "--precision: expected a number between 0 and 1"),
        (["--precision", "0.9", "--recall", "0.9"], "promise one of them"),
        (["--confidence", "0.9"], "--confidence is for --precision or --recall"),
        (["--recall", "0.9", "--precision-of", "all"], "--precision-of is for --precision"),
        (["--precision", "0.9"], "has no calibration images"),
    ],
)
def test_what_cannot_be_promised(
    small_run: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    """One line, before any photo is looked at; no database is made."""
    folder = make_folder(tmp_path / "photos", ["a.png"])
    words = ["review", str(folder), "--db", f"sqlite:///{tmp_path / 'tags.db'}"]
    result = CliRunner().invoke(app, [*words, "--model", str(small_run), *options])
    assert result.exit_code != 0
    assert said in " ".join(f"{result.output} {result.exception}".split())
    assert not (tmp_path / "tags.db").exists()
