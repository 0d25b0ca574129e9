"""A review: photos, their marginals under a model, and the answers of people."""

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import PurePosixPath
from threading import Lock
from time import sleep

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.decoding import Costs
from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.prediction.reasons import Reasons
from mlcrf.review.answer_table import AnswerTable
from mlcrf.review.answers import NO, YES, Answer, Verdict
from mlcrf.review.belief_table import BELIEVED_AT_ONCE, BeliefTable
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.explaining import Explainer
from mlcrf.review.finding import Filter, Order, Search, State, TagColumn
from mlcrf.review.learning import Course, Learner
from mlcrf.review.photos import Photo
from mlcrf.review.promise import Promise
from mlcrf.review.records import PhotoState, Tag
from mlcrf.review.suspects import Suspects
from mlcrf.review.tag_decisions import TagDecisions
from mlcrf.review.tags import titles_of
from mlcrf.rules import Rules
from mlcrf.training.extending import TeachingData
from mlcrf.training.teaching import Taught

_GIVE_WAY_S = 0.002  # for those who wait, since a lock is not fair


class Review:
    """The state and actions of a review; safe to use from several threads.

    Tags have numbers; see `AnswerTable`.

    Args:
        photos: distinct photos, in the order of the folder.
        labels: the model's labels; none without a model.
        beliefs: the model's beliefs about the photos; None without a model.
        features: of the backbone, float32 (N, D).
        find_maps: see `FeatureExtractor.maps`; None for no maps of evidence.
        make_learner: called by the first `learn`; None if the model does not learn from answers.
        promise: of the model's tags of these photos; None promises nothing.
        costs: of wrong decisions on the model's tags; None knows none.

    Attributes:
        rules: of the model, between its labels.
        suspects: likely label errors to ask about.

    Warns:
        MlcrfWarning: inference did not converge for some photos; once per review.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        labels: Sequence[str],
        beliefs: Beliefs | None,
        features: Tensor,
        database: ReviewDatabase,
        find_maps: Callable[[Image], tuple[Tensor, ...]] | None = None,
        make_learner: Callable[[], Learner] | None = None,
        promise: Promise | None = None,
        costs: Costs | None = None,
    ) -> None:
        self.promise, self.costs = promise, costs
        self.photos, self.features, self.database = tuple(photos), features, database
        self._table = AnswerTable(photos, labels, database)
        self._num_first = len(labels)  # tags of the model
        self.rules = Rules() if beliefs is None else beliefs.rules
        self._course = Course(make_learner)
        self._search = Search([photo.name for photo in photos], features)
        self._explainer = Explainer(self.photos, find_maps)
        self.suspects = Suspects()
        self._lock = Lock()
        self._table.read(self.rules)
        self._beliefs = BeliefTable(self._table, beliefs)

    def tags(self) -> list[Tag]:
        """Return all tags by their numbers."""
        with self._lock:
            self._refresh()
            yes, no = ((self._table.known == value).sum(0).tolist() for value in (YES, NO))
            names = self._table.board.tags.named(self._table.keys)
            titles = titles_of(names)
            return [
                Tag(
                    key,
                    names.get(key),
                    titles.get(key, key),
                    {"yes": yes[label], "no": no[label]},
                    self._course.quality(label),
                )
                for label, key in enumerate(self._table.keys)
            ]

    def tag_number(self, key: str) -> int:
        """Return the number of a tag.

        Raises:
            DataError: there is none, or it was merged or retired.
        """
        with self._lock:
            if not self._table.has_tag(key):
                self._refresh()
            if not self._table.has_tag(key):
                raise DataError(f"there is no tag {key!r} any more")
            return self._table.keys.index(key)

    def change_tag(
        self,
        person: str,
        request: str,
        *,
        key: str | None = None,
        name: str | None = None,
        into: str | None = None,
    ) -> None:
        """Add, rename, merge or retire a tag; its answers stay.

        Args:
            key: the tag; None adds one.
            name: its name; a retired tag of this name is brought back.
            into: the tag that it is part of from now on; without a name and this it is retired.

        Raises:
            LabelsError: the name is not one, or another tag has it.
            DataError: no such tag.
        """
        with self._lock:
            self._refresh()
            if self._table.board.tags.has(request):  # sent again after a lost reply
                return
            used, text = self._table.check_change(key, name, into)
        self.database.tag(used, text, into, person, request)
        with self._lock:
            self._refresh()

    def number(self, photo: int) -> int:
        """Return the position of a photo from its number in the database.

        Raises:
            DataError: it is not among the photos.
        """
        if photo not in self._table.number_of:
            raise DataError(f"there is no photo {photo} in this folder any more")
        return self._table.number_of[photo]

    def folders(self) -> list[str]:
        """Return the subfolders with photos in or below them, in the order of their names."""
        found = {str(one) for photo in self.photos for one in PurePosixPath(photo.name).parents}
        return sorted(found - {"."})

    def look(self, number: int) -> PhotoState:
        """Return a photo's state, including new answers of other people.

        Raises:
            DataError: no such photo.
            DatabaseError: the database cannot be read.
        """
        self._check(number)
        with self._lock:
            self._refresh()
            return self._look(number)

    def explain(self, number: int, label: int) -> Reasons:
        """Return the reasons for the probability of a photo's tag; answers do not wait for it.

        Tags are named by their keys. What is answered about the tag itself is left out.

        Raises:
            DataError: no such photo, its file cannot be read, or the model has not learned the tag.
            PotentialsError: the model is a mixture over scenes.
            DatabaseError: the database cannot be read.
        """
        self._check(number)
        with self._lock:
            self._refresh()
            beliefs, columns = self._beliefs.beliefs, self._beliefs.columns.tolist()
            keys = [self._table.keys[column] for column in columns]
            known = self._table.known[number, self._beliefs.columns]
        if beliefs is None or label not in columns:
            raise DataError("the model has not learned this tag yet")
        at = columns.index(label)
        return self._explainer.explain(beliefs, number, at, known, keys)

    def answer(
        self, number: int, values: Mapping[int, int | None], person: str, request: str
    ) -> PhotoState:
        """Store a person's answers about a photo; return its new state.

        Args:
            values: number of a tag -> 1 yes, 0 no, -1 cannot tell, None no answer any more.
            request: see `ReviewDatabase.add`.

        Raises:
            DataError: no such photo or label.
            DatabaseError: the answer could not be stored.
        """
        self.answer_many([number], values, person, request)
        return self.look(number)

    def answer_many(
        self,
        numbers: Sequence[int],
        values: Mapping[int, int | None],
        person: str,
        request: str,
        others: Sequence[int] = (),
    ) -> list[int]:
        """Store the same answers about many photos, which one undo takes back.

        Args:
            values, request: as in `answer`.
            others: photos that get the answer no where nobody has answered about such a tag.

        Returns:
            The photos concerned.

        Raises:
            DataError, DatabaseError: as `answer`.
        """
        for number in (*numbers, *others):
            self._check(number)
        if not values or any(not 0 <= label < len(self._table.keys) for label in values):
            raise DataError("no such label")
        said: dict[int, dict[str, int | None]] = {}
        if others:
            with self._lock:
                self._refresh()
                for number in others:
                    is_open = [label for label in values if not self._table.answered[number, label]]
                    if is_open:
                        said[self.photos[number].id] = {
                            self._table.keys[label]: NO for label in is_open
                        }
        for number in numbers:
            said[self.photos[number].id] = {
                self._table.keys[label]: value for label, value in values.items()
            }
        return self._take(self.database.add_many(said, person, request))

    def accept(self, number: int, person: str, request: str) -> PhotoState:
        """Answer all open tags that the model knows as shown, for a person."""
        look, tags = self.look(number), self.tags()
        rest = {
            label: int(p > 0.5)
            for label, (p, verdict) in enumerate(zip(look.marginals, look.verdicts, strict=True))
            if not verdict.is_answered and not isnan(p) and tags[label].name is not None
        }
        return self.answer(number, rest, person, request) if rest else look

    def undo(self, person: str, request: str) -> list[int]:
        """Undo a person's last act; return the photos concerned, none if there is none."""
        return self._take(self.database.undo(person, request, self._table.number_of.keys()))

    def redo(self, person: str, request: str) -> list[int]:
        """Redo what a person undid last; return the photos concerned, none if there is none."""
        return self._take(self.database.redo(person, request, self._table.number_of.keys()))

    def choose_typical(self) -> None:
        """Choose photos to begin a tag with; see `Search.choose_typical`."""
        self._search.choose_typical()

    def find(self, wanted: Filter) -> list[int]:
        """Return the numbers of the selected photos, in order."""
        with self._lock:
            self._refresh()
            states, worth = tuple(self._beliefs.states), self._beliefs.worth.clone()
            if wanted.order is Order.SUSPECTS:
                worth = self.suspects.urgency(self._settled)
            column = self._column(wanted.label)
        return self._search.find(wanted, states, worth, column)  # answers do not wait for it

    def decided(
        self, least: float | None = None, *, promised: bool = False, at_least_cost: bool = False
    ) -> Tensor:
        """Return which tags each photo has: those answered yes, and what they imply, (N, L).

        No group has more than its limit; it may have fewer, because not all is answered.

        Args:
            least: those that nobody has answered, too, if their probability is at least this.
            promised: those that nobody has answered, too, if the promise covers them.
            at_least_cost: those of the model's that nobody has answered, too, if the tags of least
                expected cost, given the answers, have them; see `minimise_expected_cost`.

        Raises:
            SettingsError: there is no promise, or there is one and `least` would break it; there
                are no costs.
        """
        with self._lock:
            self._refresh()
            return self._decisions.decide(least, promised=promised, at_least_cost=at_least_cost)

    def promised_counts(self) -> tuple[int, int]:
        """Return the number of tags without an answer that the promise covers, and of photos."""
        with self._lock:
            tags = self._decisions.promised() & self._table.shown
            return int(tags.sum()), int(tags.any(1).sum())

    def belief(self, number: int, label: int) -> tuple[float, int | None]:
        """Return P(tag present | answers), NaN if there is none, and the answer, None for none."""
        is_answered = bool(self._table.answered[number, label])
        answer = int(self._table.known[number, label]) if is_answered else None
        return float(self._beliefs.marginals[number, label]), answer

    def tags_of(self, numbers: Sequence[int], limit: int = 3) -> list[list[int]]:
        """Return the tags of some photos, likeliest first."""
        rows = torch.tensor(numbers, dtype=torch.int64)
        present = self._beliefs.present(rows)
        marginals = self._beliefs.marginals[rows].masked_fill(~present, -1)
        best = marginals.topk(min(limit, marginals.shape[1]), dim=1).indices
        return [
            [label for label, is_present in zip(*one, strict=True) if is_present]
            for one in zip(best.tolist(), present.gather(1, best).tolist(), strict=True)
        ]

    def state(self, number: int) -> State:
        return self._beliefs.states[number]

    def progress(self) -> dict[str, int]:
        """Count photos by state, answered tags, ranked photos, and changes of tags."""
        with self._lock:
            counts = {state.value: self._beliefs.states.count(state) for state in State}
            return {
                "photos": len(self.photos),
                "answers": int(self._table.answered.sum()),
                "labels": self._table.answered.numel(),
                "ranked": int(self._beliefs.is_ranked.sum()),
                "tags": self._table.board.tags.last_id + len(self._table.keys),
                "lessons": self._course.count,
                "suspects": len(self.suspects),
                "suspects_settled": self.suspects.count_settled(self._settled),
            } | counts

    def learn(self) -> bool:
        """Learn from all answers if there are new ones; return whether beliefs have changed.

        Answers do not wait for it. To be called from one thread.

        Raises:
            DatabaseError: the database cannot be read.
        """
        if not self._course.can_learn:
            return False
        with self._lock:
            self._refresh()
            heard = self._table.board.last_id, self._table.board.tags.last_id
            answers = self._table.known.clone()
            answers[:, ~self._table.shown] = UNKNOWN  # of retired tags
        lesson = self._course.learn(heard, answers)
        if lesson is None:
            return False
        with self._lock:
            self._beliefs.take_lesson(lesson, answers)
            self._course.count += 1
        self._course.judge()
        return True

    def learned(self) -> tuple[Taught, TeachingData, list[str]]:
        """Return what was learned last, from what, and the names of retired or merged labels in it.

        Answers and tags that came later than the last lesson are not in it.

        Raises:
            DataError: nothing was learned yet.
            DatabaseError: the database cannot be read.
        """
        lesson, answers = self._course.last()
        with self._lock:
            self._refresh()
            names, gone = self._table.names(answers.shape[1])
        images = [photo.image for photo in self.photos]
        features = self.features.numpy()
        data = TeachingData("review", images, features, answers, names, lesson.before)
        return lesson.taught, data, gone

    def rank(self) -> bool:
        """Rank the most promising photos that are not ranked yet; return whether any are left.

        Unranked photos count with the entropy of their least certain label, a lower bound. Beliefs
        that are approximate, or older than the answers, are inferred anew.
        """
        with self._lock:
            ranking = self._beliefs.next_ranking()
        if ranking is None:
            return False
        if len(ranking.rows):
            information, marginals = ranking.infer()  # answers do not wait for it
            with self._lock:
                self._beliefs.take_ranking(ranking, information, marginals)
        return ranking.are_more

    def _check(self, number: int) -> None:
        if not 0 <= number < len(self.photos):
            raise DataError(f"there is no photo {number}; there are {len(self.photos)}")

    def _column(self, label: int | None) -> TagColumn:
        """Copy one tag of all photos; without a tag, make one that nothing is known of."""
        if label is not None:
            return TagColumn(
                self._beliefs.marginals[:, label].clone(),
                self._table.known[:, label].clone(),
                self._table.answered[:, label].clone(),
                is_new=label >= self._num_first,
                is_sure=self._decisions.sure(label),
            )
        count = len(self.photos)
        return TagColumn(
            torch.full((count,), torch.nan),
            torch.full((count,), UNKNOWN),
            torch.zeros(count, dtype=torch.bool),
        )

    @property
    def _decisions(self) -> TagDecisions:
        return TagDecisions(
            self._table, self._beliefs, self.rules, self.promise, self.costs, self._num_first
        )

    @property
    def _settled(self) -> Tensor:
        """The tags that suspects are not asked about any more, (N, L)."""
        return self._table.answered | ~self._table.shown

    def _take(self, written: list[Answer]) -> list[int]:
        """Take answers that were just written into account; return their photos."""
        with self._lock:
            self._beliefs.follow(self._table.take(written, self.rules))
        numbers = self._table.numbers(dict.fromkeys(answer.photo for answer in written))
        for at in range(0, len(numbers), BELIEVED_AT_ONCE):
            behind = self._beliefs.rough(numbers[at : at + BELIEVED_AT_ONCE])
            if behind:
                with self._lock:
                    self._beliefs.infer(behind)
                sleep(_GIVE_WAY_S)
        return numbers

    def _refresh(self) -> None:
        """Read the answers and changes of tags that were written since the last call."""
        changed, have_tags_changed = self._table.read(self.rules)
        if have_tags_changed:
            self._beliefs.is_ranked[:] = False
        self._beliefs.follow(changed)

    def _look(self, number: int) -> PhotoState:
        question, information = self._beliefs.question(number)
        verdicts = self._table.verdicts(number)
        return PhotoState(
            number=number,
            marginals=tuple(self._beliefs.marginals[number].tolist()),
            known=tuple(self._table.known[number].tolist()),
            verdicts=tuple(verdicts.get(key, Verdict()) for key in self._table.keys),
            contradicts=self._table.contradicts.get(number, frozenset()),
            promised=tuple(self._decisions.promised()[number].tolist()),
            question=question,
            information=information,
            state=self._beliefs.states[number],
        )
