"""A table of the beliefs about all photos and tags, which follows the answers."""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.errors import MlcrfWarning
from mlcrf.inference.questions import label_entropy, next_questions
from mlcrf.review.answer_table import AnswerTable
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.finding import State
from mlcrf.review.learning import Lesson

BELIEVED_AT_ONCE = 64  # photos that are inferred while others wait
_RANKED_AT_ONCE = 2  # photos


@dataclass(frozen=True)
class Ranking:
    """Some photos that are to be ranked by their best questions, in the background.

    Attributes:
        rows: the photos (n,).
        known: their answers about the tags of `beliefs`, (n, K).
        is_rough: whether their marginals are to be inferred anew (n,).
        are_more: whether others are left to be ranked.
    """

    beliefs: Beliefs
    rows: Tensor
    known: Tensor
    is_rough: Tensor
    are_more: bool

    def infer(self) -> tuple[Tensor, Tensor]:
        """Return the information of each answer (n, K), and the marginals of rough photos."""
        information = self.beliefs.information(self.rows, self.known)
        rough = self.rows[self.is_rough]
        return information, self.beliefs.marginals(rough, self.known[self.is_rough])[0]


class BeliefTable:
    """The probability of each tag of each photo, the photos' states, and what to ask about them.

    Not safe to use from several threads.

    Args:
        answers: the answers about the photos.
        beliefs: the model's beliefs; None without a model.

    Attributes:
        columns: numbers of the tags that `beliefs` are about (K,).
        marginals: P(tag present | answers); NaN if the model does not know the tag (N, L).
        states: progress of each photo.
        worth: information of the best question about each photo, or a lower bound of it (N,).
        is_ranked: whether `worth` is that information (N,).
    """

    def __init__(self, answers: AnswerTable, beliefs: Beliefs | None) -> None:
        self._answers, self.beliefs = answers, beliefs
        count, tags = answers.known.shape
        self.columns = torch.arange(0 if beliefs is None else beliefs.num_labels)
        self.marginals = torch.full((count, tags), torch.nan, dtype=torch.float64)
        self.states = [State.NEW] * count
        self.worth = torch.zeros(count, dtype=torch.float64)
        self.is_ranked = torch.zeros(count, dtype=torch.bool)
        # marginals that are approximate, or older than the answers
        self._is_rough = torch.zeros(count, dtype=torch.bool)
        self._has_warned = False
        self.infer(list(range(count)))

    def follow(self, changed: list[int]) -> None:
        """Take into account new answers and tags; beliefs about many photos come later."""
        added = len(self._answers.keys) - self.marginals.shape[1]
        self.marginals = F.pad(self.marginals, (0, added), value=torch.nan)
        if not changed:
            return
        if self.beliefs is None or len(changed) <= BELIEVED_AT_ONCE:
            self.infer(changed)
            return
        rows = torch.tensor(changed)
        self._set(rows, self.marginals[rows[:, None], self.columns])
        self._is_rough[rows] = True

    def rough(self, numbers: list[int]) -> list[int]:
        """Return those photos whose marginals are approximate, or older than their answers."""
        return [number for number in numbers if self._is_rough[number]]

    def infer(self, numbers: list[int]) -> None:
        """Infer the beliefs about some photos from their answers."""
        rows = torch.tensor(numbers, dtype=torch.int64)
        if self.beliefs is None:
            self._set(rows, torch.empty(len(rows), 0))
            return
        known = self._answers.known[rows[:, None], self.columns]
        marginals, advice = self.beliefs.marginals(rows, known)
        if advice and not self._has_warned:
            self._has_warned = True
            warnings.warn(advice, MlcrfWarning, stacklevel=2)
        self._set(rows, marginals)

    def take_lesson(self, lesson: Lesson, answers: Tensor) -> None:
        """Replace all beliefs; those about photos that were answered meanwhile follow again.

        Args:
            answers: that the lesson is from (N, K).
        """
        self.beliefs, self.columns = lesson.beliefs, lesson.columns
        known = self._answers.known
        self.marginals = torch.where(known == UNKNOWN, torch.nan, known.double())
        self.marginals[:, lesson.columns] = lesson.marginals
        self._is_rough[:] = lesson.is_rough
        everything = torch.arange(len(known))
        self._value_roughly(everything)
        self._update_states(everything)
        pad = (0, known.shape[1] - answers.shape[1])
        changed = (F.pad(answers, pad, value=UNKNOWN) != known) & self._answers.shown
        self.follow(changed.any(1).nonzero().squeeze(1).tolist())

    def question(self, number: int) -> tuple[int | None, float]:
        """Return the tag to ask about next in a photo, None for none, and its information."""
        if self.beliefs is None:
            return None, 0.0
        if bool(self._is_rough[number]):
            self.infer([number])
        rows = torch.tensor([number])
        known = self._answers.known[rows][:, self.columns]
        questions, worth = self._value(rows, self.beliefs.information(rows, known))
        return None if questions < 0 else int(questions), float(worth)

    def next_ranking(self) -> Ranking | None:
        """Return the most promising photos that are not ranked; None without a model."""
        if self.beliefs is None:
            return None
        waiting = (~self.is_ranked).nonzero().squeeze(1)
        best = self.worth[waiting].argsort(descending=True, stable=True)
        rows = waiting[best[:_RANKED_AT_ONCE]]
        known = self._answers.known[rows[:, None], self.columns]
        return Ranking(self.beliefs, rows, known, self._is_rough[rows], len(waiting) > len(rows))

    def take_ranking(self, ranking: Ranking, information: Tensor, marginals: Tensor) -> None:
        """Take what was inferred for a ranking where nothing has changed meanwhile."""
        if self.beliefs is not ranking.beliefs:
            return
        rows, rough = ranking.rows, ranking.is_rough
        same = (self._answers.known[rows[:, None], self.columns] == ranking.known).all(1)
        self._set(rows[rough & same], marginals[same[rough]])
        self._value(rows[same], information[same])

    def present(self, rows: Tensor) -> Tensor:
        """Return the tags of photos that are answered yes or more likely than not, (n, L)."""
        known = self._answers.known[rows]
        present = (known == 1) | ((known == UNKNOWN) & (self.marginals[rows] > 0.5))
        return present & self._answers.shown

    def _set(self, rows: Tensor, marginals: Tensor) -> None:
        """Replace the marginals of some photos, those of the model's tags as given (n, K)."""
        known = self._answers.known[rows]
        found = torch.where(known == UNKNOWN, torch.nan, known.double())
        ours = known[:, self.columns]
        found[:, self.columns] = torch.where(ours == UNKNOWN, marginals.double(), ours.double())
        self.marginals[rows] = found
        self._is_rough[rows] = False
        if self.beliefs is not None:
            self._value_roughly(rows)
        self._update_states(rows)

    def _value_roughly(self, rows: Tensor) -> None:
        """Take the entropy of each photo's least certain tag for the information of an answer."""
        least = label_entropy(self.marginals[rows]).masked_fill(~self._askable(rows), 0)
        self.worth[rows] = least.amax(1)
        self.is_ranked[rows] = False

    def _value(self, rows: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
        """Return each photo's best question, -1 for none, and its information; cache it."""
        askable = self._askable(rows)[:, self.columns]
        information = information.masked_fill(~askable, 0)
        self.worth[rows] = information.amax(1)
        self.is_ranked[rows] = True
        best = next_questions(information, askable)
        return torch.where(best < 0, best, self.columns[best]), self.worth[rows]

    def _askable(self, rows: Tensor) -> Tensor:
        """Return the tags that the model asks about: not answered, and not implied, (n, L)."""
        p = self.marginals[rows]
        return ~self._answers.answered[rows] & (p > 0) & (p < 1) & self._answers.shown

    def _update_states(self, rows: Tensor) -> None:
        shown, answered = self._answers.shown, self._answers.answered[rows]
        is_open = ~answered & shown if self.beliefs is None else self._askable(rows)
        has_conflict = self._answers.in_conflict[rows] & shown
        kinds = torch.stack([has_conflict.any(1), (answered & shown).any(1), is_open.any(1)], 1)
        for number, (is_conflict, is_begun, is_left) in zip(
            rows.tolist(), kinds.tolist(), strict=True
        ):
            if is_conflict:
                self.states[number] = State.CONFLICT
            elif not is_begun:
                self.states[number] = State.NEW
            else:
                self.states[number] = State.BEGUN if is_left else State.DONE
