"""A review as functions: beliefs follow answers, order, filter, conflicts, other servers."""

import warnings
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import DataError, MlcrfWarning
from mlcrf.images import Image, as_image
from mlcrf.inference import Exact, Gibbs, InferenceMethod, JunctionTree, MeanField
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.questions import answer_information, pair_marginals
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.prediction.reasons import PartKind
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.finding import Filter, Order, Part, State
from mlcrf.review.photos import Photo
from mlcrf.review.session import Review
from mlcrf.rules import Rules
from tests.making import make_potentials
from tests.review.conftest import new_request

NAMES = ("sea", "sky", "indoor", "bird", "night")


def start(
    database: ReviewDatabase,
    potentials: Potentials,
    method: InferenceMethod | None = None,
    crf: LabelCrf | None = None,
    find_maps: Callable[[Image], tuple[Tensor, ...]] | None = None,
) -> Review:
    count = potentials.num_images
    files = [Stamped(f"im{n}.jpg", "1", f"{n:064x}") for n in range(count)]
    numbers, _ = database.register("/photos", files)
    photos = [
        Photo(number, as_image(f"/photos/{file.path}"), file.path, file.sha256)
        for number, file in zip(numbers, files, strict=True)
    ]
    labels = LabelSpace(
        NAMES
        if potentials.num_labels == 5
        else tuple(f"l{at}" for at in range(potentials.num_labels))
    )
    beliefs = Beliefs(method or Exact(), potentials, crf)
    return Review(photos, labels.names, beliefs, potentials.unary.float(), database, find_maps)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ReviewDatabase]:
    opened = ReviewDatabase(str(tmp_path / "tags.db"))
    yield opened
    opened.close()


@pytest.mark.parametrize("method", [Exact(), MeanField()])
def test_an_answer_moves_the_other_tags_of_the_photo(
    database: ReviewDatabase, method: InferenceMethod
) -> None:
    """As inference with that label clamped says; other photos stay; undo brings all back."""
    potentials = make_potentials(4, 5, pairwise=1.5, dtype=torch.float32)
    review = start(database, potentials, method)
    before, beside = review.look(1), review.look(2)
    look = review.answer(1, {0: 1}, "anna", new_request())
    known = torch.full((1, 5), -1)
    known[0, 0] = 1
    wanted = method(potentials.rows(slice(1, 2)), known=known).marginals[0]
    assert torch.allclose(torch.tensor(look.marginals), wanted, atol=1e-6)
    assert look.known == (1, -1, -1, -1, -1) and look.state is State.BEGUN
    assert (
        max(abs(a - b) for a, b in zip(look.marginals[1:], before.marginals[1:], strict=True))
        > 0.01
    )
    assert review.look(2) == beside
    assert review.undo("anna", new_request()) == [1]
    undone = review.look(1)
    assert undone.state is State.NEW
    # mean field stops when all images of a batch have converged
    assert undone.marginals == pytest.approx(before.marginals, abs=1e-5)
    assert undone.verdicts == before.verdicts
    assert review.undo("anna", new_request()) == []


def test_the_next_question_and_photo_are_those_that_tell_most(database: ReviewDatabase) -> None:
    """As the plain functions say; once all is ranked the list is in their order."""
    potentials = make_potentials(40, 5, unary=2.0, pairwise=1.5)
    review = start(database, potentials)
    review.answer(3, {1: 0}, "anna", new_request())
    while review.rank():
        pass
    known = torch.full((40, 5), -1)
    known[3, 1] = 0
    information = answer_information(pair_marginals(Exact(), potentials, known=known))
    found = review.find(Filter())
    worth = information.amax(1)
    # half-states of 1e-3 may be left out on our side
    assert all(worth[a] > worth[b] - 0.02 for a, b in pairwise(found))
    assert int(worth.argmax()) == found[0]
    assert review.look(3).question == int(information[3].argmax())
    assert review.progress()["ranked"] == 40


def test_an_answer_does_not_wait_for_ranking(
    database: ReviewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given while its photo is ranked it is taken at once, and the old rank is dropped."""
    review = start(database, make_potentials(1, 5, unary=2.0, pairwise=1.5))
    information = Beliefs.information

    def answered_meanwhile(
        beliefs: Beliefs, rows: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(Beliefs, "information", information)
            review.answer(0, {0: 1}, "anna", new_request())
            return information(beliefs, rows, known) + 9

    monkeypatch.setattr(Beliefs, "information", answered_meanwhile)
    review.rank()
    monkeypatch.setattr(Beliefs, "information", information)
    assert review.look(0).known[0] == 1 and float(review._beliefs.worth[0]) < 9


@pytest.mark.parametrize("num_labels", [14, 80])
def test_beyond_exact_inference_an_answer_moves_only_what_depends_on_it(
    database: ReviewDatabase, num_labels: int
) -> None:
    """A photo has the same chains at every look; with little left to know, exact ones."""
    unary = torch.full((3, num_labels), -0.5)
    edges = torch.combinations(torch.arange(8))  # the other labels are coupled to none
    potentials = Potentials(unary, edges, torch.full((len(edges),), 0.3))
    method = ExactOrGibbs(6, Gibbs())
    review = start(database, potentials, method)
    before = review.look(1)
    look = review.answer(1, {0: 1}, "anna", new_request())
    assert look.marginals[8:] == before.marginals[8:]
    assert min(b - a for a, b in zip(before.marginals[1:8], look.marginals[1:8], strict=True)) > 0
    assert look.question not in (None, 0)
    rest = dict.fromkeys(range(4, num_labels), 0)
    few = review.answer(1, {0: 1} | rest, "anna", new_request())
    known = torch.tensor([[1, -1, -1, -1, *[0] * (num_labels - 4)]])
    exact = JunctionTree()(potentials.rows(slice(0, 1)), known=known).marginals[0]
    assert few.marginals == pytest.approx(exact.tolist(), abs=1e-5)


def test_can_not_tell_is_not_asked_again_and_tells_nothing(database: ReviewDatabase) -> None:
    """The label stays unknown to the model, and the next question is another."""
    review = start(database, make_potentials(1, 5, dtype=torch.float64))
    look = review.look(0)
    assert look.question is not None
    after = review.answer(0, {look.question: -1}, "anna", new_request())
    assert after.marginals == look.marginals and after.known == look.known
    assert after.question not in (None, look.question)


def test_conflicts_are_shown_and_count_as_unknown(database: ReviewDatabase) -> None:
    """Two people, two answers: both kept; when one gives in the label is known again."""
    review = start(database, make_potentials(2, 5))
    review.answer(0, {0: 1}, "anna", new_request())
    look = review.answer(0, {0: 0}, "ben", new_request())
    assert look.verdicts[0].is_conflict and look.known[0] == -1
    assert {who: vote.value for who, vote in look.verdicts[0].votes.items()} == {
        "anna": 1,
        "ben": 0,
    }
    assert look.state is State.CONFLICT and look.question != 0
    assert review.find(Filter(state=State.CONFLICT)) == [0]
    assert review.progress()["conflict"] == 1
    look = review.answer(0, {0: 1}, "ben", new_request())
    assert look.known[0] == 1 and look.state is State.BEGUN


def test_answers_that_break_an_implication_are_a_conflict_not_a_crash(
    database: ReviewDatabase,
) -> None:
    """bird => sky => sea: bird without sea counts as unknown for both, and is shown."""
    plain = make_potentials(1, 5)
    rules = Rules(((3, 1), (1, 0)))
    potentials = Potentials(plain.unary, plain.edges, plain.pairwise, rules)
    review = start(database, potentials)
    look = review.answer(0, {3: 1}, "anna", new_request())
    assert look.marginals[0] == look.marginals[1] == 1.0  # they follow, and are not asked
    assert look.question in (2, 4)
    look = review.answer(0, {0: 0}, "anna", new_request())
    assert look.contradicts == {0, 3} and look.state is State.CONFLICT
    assert look.known == (-1,) * 5
    look = review.answer(0, {3: 0}, "anna", new_request())
    assert not look.contradicts and look.known[0] == 0


def test_accepting_the_rest_answers_what_is_shown_and_is_undone_at_once(
    database: ReviewDatabase,
) -> None:
    """Answers that were given stay; one undo takes all of the rest back."""
    review = start(database, make_potentials(1, 5, unary=3.0))
    first = review.answer(0, {2: 1, 4: -1}, "anna", new_request())
    look = review.accept(0, "anna", new_request())
    assert look.state is State.DONE and look.question is None
    assert look.known[2] == 1 and look.known[4] == -1
    for label in (0, 1, 3):
        assert look.known[label] == int(first.marginals[label] > 0.5)
    assert review.accept(0, "anna", new_request()) == look
    assert review.undo("anna", new_request()) == [0] and review.look(0) == first


def test_one_answer_about_many_photos(database: ReviewDatabase) -> None:
    """Each has it, others stay; one undo takes all of them back, and one redo gives them again."""
    review = start(database, make_potentials(6, 5, pairwise=1.5))
    before = [review.look(number) for number in range(6)]
    assert review.answer_many([4, 1, 2], {3: 1}, "anna", new_request()) == [4, 1, 2]
    after = [review.look(number) for number in range(6)]
    assert [look.known[3] for look in after] == [-1, 1, 1, -1, 1, -1]
    assert after[0] == before[0] and after[1].marginals[0] != before[1].marginals[0]
    assert sorted(review.undo("anna", new_request())) == [1, 2, 4]
    assert [review.look(number).known for number in range(6)] == [(-1,) * 5] * 6
    assert sorted(review.redo("anna", new_request())) == [1, 2, 4]
    assert review.progress()["answers"] == 3


def test_nobody_waits_for_beliefs_about_many_photos(
    database: ReviewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beliefs follow in parts, between which others look, who see what they will be at the end."""
    potentials = make_potentials(200, 5, unary=2.0, pairwise=1.5, dtype=torch.float32)
    review = start(database, potentials)
    before = [look.marginals for look in map(review.look, range(200))]
    known = torch.full((200, 5), -1)
    known[:150, 0] = 0
    wanted = Exact()(potentials, known=known).marginals
    seen = []

    def look_meanwhile(_: float) -> None:
        seen.append(review.look(149))

    monkeypatch.setattr("mlcrf.review.session.sleep", look_meanwhile)
    numbers = list(range(150))
    assert review.answer_many(numbers, {0: 0}, "anna", new_request()) == numbers
    assert len(seen) == 3
    for look in seen:
        assert torch.allclose(torch.tensor(look.marginals), wanted[149], atol=1e-6)
        assert look.state is State.BEGUN
    now = torch.tensor([review.belief(n, 1)[0] for n in range(200)])
    assert torch.allclose(now, wanted[:, 1], atol=1e-6)
    assert review.progress()["begun"] == 150
    assert sorted(review.undo("anna", new_request())) == numbers
    for number in (0, 70, 149, 150):
        assert review.look(number).marginals == pytest.approx(before[number], abs=1e-6)
    assert review.progress()["new"] == 200


def test_many_answers_of_another_server_are_taken_into_account(database: ReviewDatabase) -> None:
    """At once where somebody looks, and in the background everywhere."""
    potentials = make_potentials(100, 5, unary=2.0, pairwise=1.5, dtype=torch.float32)
    review, other = start(database, potentials), start(database, potentials)
    other.answer_many(range(100), {0: 1}, "ben", new_request())
    known = torch.full((100, 5), -1)
    known[:, 0] = 1
    wanted = Exact()(potentials, known=known).marginals
    assert torch.allclose(torch.tensor(review.look(99).marginals), wanted[99], atol=1e-6)
    assert review.progress()["begun"] == 100
    while review.rank():
        pass
    now = torch.tensor([[review.belief(n, at)[0] for at in range(5)] for n in range(100)])
    assert torch.allclose(now, wanted, atol=1e-6)


def test_yes_to_some_photos_and_no_to_the_others(database: ReviewDatabase) -> None:
    """Others keep the answers that they have; one undo takes all back but these."""
    review = start(database, make_potentials(5, 5))
    review.answer(3, {0: 1}, "ben", new_request())
    request = new_request()
    for _ in range(2):  # sent again after a lost reply
        found = review.answer_many([0, 2], {0: 1}, "anna", request, others=[1, 3, 4])
        assert sorted(found) == [0, 1, 2, 4]
    assert [review.look(number).known[0] for number in range(5)] == [1, 0, 1, 1, 0]
    assert not review.look(3).verdicts[0].is_conflict
    review.undo("anna", new_request())
    assert [review.look(number).known[0] for number in range(5)] == [-1, -1, -1, 1, -1]


def test_filters(database: ReviewDatabase) -> None:
    """By state, by a part of the name, and by name alone in order."""
    review = start(database, make_potentials(12, 5, unary=2.0))
    review.answer(3, {0: 1}, "anna", new_request())
    review.answer(4, {0: 0}, "anna", new_request())
    assert sorted(review.find(Filter(state=State.BEGUN))) == [3, 4]
    assert review.find(Filter(name="IM1", order=Order.NAME)) == [1, 10, 11]
    assert review.find(Filter(name="no such")) == []


def test_the_photos_of_a_tag(database: ReviewDatabase) -> None:
    """Each stands once, by probability; those with an answer come last."""
    review = start(database, make_potentials(30, 5, unary=4.0))
    p = [review.look(number).marginals[0] for number in range(30)]
    review.answer(3, {0: 1}, "anna", new_request())
    review.answer(4, {0: 0}, "anna", new_request())
    review.answer(5, {0: -1}, "anna", new_request())
    parts = {part: review.find(Filter(label=0, part=part, order=Order.LIKELY)) for part in Part}
    unlikely, done = parts.pop(Part.UNLIKELY), parts.pop(Part.ANSWERED)
    still_open = parts.pop(Part.OPEN)
    for part, least, limit in (
        (Part.SURE, 0.9, 1),
        (Part.LIKELY, 0.7, 0.9),
        (Part.UNCERTAIN, 0.3, 0.7),
    ):
        answered = [3] if part is Part.SURE else []
        among = [n for n in range(30) if n not in (3, 4, 5) and least <= p[n] < limit]
        assert parts[part] == [*sorted(among, key=lambda n: -p[n]), *answered] and among, part
    assert sorted([*chain(*parts.values()), *unlikely, *done]) == list(range(30))
    assert done == [5, 4] and sorted([*still_open, 3, 4, 5]) == list(range(30))
    doubts = review.find(Filter(label=0, part=Part.OPEN, order=Order.UNCERTAIN))
    expected = sorted(still_open, key=lambda n: abs(p[n] - 0.5))
    drawn = {doubts[at] for at in range(1, len(doubts), 5)}  # after three answers
    assert sorted(doubts) == sorted(expected)
    others = [n for n in doubts if n not in drawn]
    assert others == [n for n in expected if n not in drawn]
    assert drawn != set(expected[1::5])
    assert [tag.answers for tag in review.tags()][:2] == [{"yes": 1, "no": 1}, {"yes": 0, "no": 0}]


def test_another_server_sees_the_answer(url: str) -> None:
    """Two reviews of one database: each sees what the other was told, at its next look."""
    databases = [ReviewDatabase(url), ReviewDatabase(url)]
    potentials = make_potentials(3, 5)
    first, second = (start(database, potentials) for database in databases)
    looked = first.answer(1, {2: 1}, "anna", new_request())
    assert second.look(1) == looked
    assert second.answer(1, {2: 0}, "ben", new_request()).state is State.CONFLICT
    assert first.find(Filter(state=State.CONFLICT)) == [1]
    assert start(databases[0], potentials).look(1).state is State.CONFLICT  # started later
    for database in databases:
        database.close()


def test_what_is_not_there_is_refused(database: ReviewDatabase) -> None:
    """Photos and labels out of range; nothing is written."""
    review = start(database, make_potentials(2, 5))
    for number, values in ((2, {0: 1}), (-1, {0: 1}), (0, {5: 1}), (0, {})):
        with pytest.raises(DataError):
            review.answer(number, values, "anna", new_request())
    assert list(database.since(0)) == []


def test_inference_that_does_not_converge_is_told_once(database: ReviewDatabase) -> None:
    """A warning when the review begins, none with each answer, and none where all converge."""
    potentials = make_potentials(4, 5, pairwise=1.5, dtype=torch.float32)
    with pytest.warns(MlcrfWarning, match="had not converged") as told:
        review = start(database, potentials, MeanField(max_sweeps=1))
        review.answer(1, {0: 1}, "anna", new_request())
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(database, potentials, Exact())


@pytest.mark.parametrize("method", [Exact(), Gibbs()], ids=["exact", "gibbs"])
def test_reasons_for_a_tag(database: ReviewDatabase, method: InferenceMethod) -> None:
    """They add up to the probability shown, the map to the picture's part; no answer waits."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 6, 2, 2, generator=generator)
    crf = LabelCrf(6, 5)
    with torch.no_grad():
        for value in crf.parameters():
            value.normal_(generator=generator)
        potentials = crf(maps.mean((2, 3)))
    asked = []

    def find_maps(image: Image) -> tuple[Tensor, ...]:
        assert not review._lock.locked()
        asked.append(image)
        return (maps[1],)

    review = start(database, potentials, method, crf, find_maps)
    look = review.answer(1, {0: 1}, "anna", new_request())
    for label in (1, 2):
        reasons = review.explain(1, label)
        assert reasons.probability == pytest.approx(look.marginals[label], abs=1e-6)
        parts = {(part.kind, part.label): part.log_odds for part in reasons.parts}
        assert sum(parts.values()) == pytest.approx(reasons.log_odds, abs=1e-9)
        pair = potentials.pairwise_matrix()[0, label].detach()
        assert parts[PartKind.KNOWN, "sea"] == pytest.approx(float(pair), abs=1e-6)
        assert reasons.map is not None
        whole = reasons.map.values.sum() + reasons.map.bias
        assert whole == pytest.approx(parts[PartKind.IMAGE, ""], abs=1e-4)
    assert len(asked) == 1
    itself = review.explain(1, 0).probability  # as if it were not answered
    review.undo("anna", new_request())
    assert review.look(1).marginals[0] == pytest.approx(itself, abs=1e-6)
    review.change_tag("anna", new_request(), name="Oma")
    with pytest.raises(DataError, match="has not learned this tag yet"):
        review.explain(1, review.tag_number("Oma"))
