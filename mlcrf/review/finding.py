"""Select and order the photos of a review."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.review.typical import typical_photos

_SURE, _LIKELY, _UNCERTAIN = 0.9, 0.7, 0.3  # least probabilities of the parts
_SPOT_CHECK = 5  # questions of which one is about a photo drawn by chance
_TYPICAL = 40  # photos to begin a tag with
_LEAST = 1e-6  # of a standard deviation, and of a norm


class State(StrEnum):
    """The progress of a photo's answers."""

    NEW = "new"  # no answers
    BEGUN = "begun"
    DONE = "done"  # every label is answered or implied
    CONFLICT = "conflict"  # answers contradict each other


class Part(StrEnum):
    """A part of the photos, by their answers about one tag and its probability.

    A photo is in one of the first five. With a promised precision only tags that it covers are
    sure, and others of at least 70 % likely.
    """

    SURE = "sure"  # answered yes, or not answered and at least 90 %
    LIKELY = "likely"  # not answered, 70 to 90 %
    UNCERTAIN = "uncertain"  # not answered, 30 to 70 %
    UNLIKELY = "unlikely"  # not answered, below 30 % or not known yet
    ANSWERED = "answered"  # answered no or can't tell, or in conflict
    OPEN = "open"  # not answered: all of the first four but those answered yes


class Order(StrEnum):
    """The order of photos; the last three put photos with an answer about the tag last."""

    TEACHES = "teaches"  # by information of the best question
    SUSPECTS = "suspects"  # only photos with an open suspect, the likeliest label error first
    NAME = "name"
    LIKELY = "likely"  # by probability of the tag
    # the nearest to 50 % first, of a tag without a yes typical ones; of open ones a fifth by chance
    UNCERTAIN = "uncertain"
    LIKE = "like"  # by similarity to one photo, or to those with the tag


@dataclass(frozen=True)
class Filter:
    """A selection of photos.

    Attributes:
        label: the tag that `part` and `order` are about; None for none.
        part: select photos in this part; None for all.
        state: select photos in this state; None for all.
        name: part of the path, in any case.
        folder: select photos in and below this folder; empty for all.
        order: order of the result.
        like: number of the photo that others are compared with; None for those answered yes.

    Raises:
        ValueError: the part or the order needs a tag, and there is none.
    """

    label: int | None = None
    part: Part | None = None
    state: State | None = None
    name: str = ""
    folder: str = ""
    order: Order = Order.TEACHES
    like: int | None = None

    def __post_init__(self) -> None:
        needs = self.order in (Order.LIKELY, Order.UNCERTAIN) or self.part is not None
        if self.label is None and (needs or (self.order is Order.LIKE and self.like is None)):
            raise ValueError("it needs a tag")

    @property
    def takes_all(self) -> bool:
        """True if it is only about a tag."""
        return self.state is None and not self.name and not self.folder

    def takes(self, name: str, state: State) -> bool:
        """Return whether a photo is in this folder and state and has such a name."""
        return (
            (self.state is None or state is self.state)
            and self.name.casefold() in name.casefold()
            and name.startswith(f"{self.folder}/" if self.folder else "")
        )


@dataclass(frozen=True)
class TagColumn:
    """One tag of all photos.

    Attributes:
        p: P(tag present | answers); NaN if the model does not know the tag (N,).
        known: 1, 0 or -1 for unknown (N,).
        answered: whether anybody has answered (N,).
        is_new: whether the model that was there first does not know the tag.
        is_sure: whether a promised precision covers it, for photos without an answer; None if no
            precision is promised (N,).
    """

    p: Tensor
    known: Tensor
    answered: Tensor
    is_new: bool = False
    is_sure: Tensor | None = None

    def has_part(self, part: Part) -> Tensor:
        """Return which photos are in a part, (N,)."""
        p = self.p.masked_fill(self.answered, torch.nan)
        is_sure = p >= _SURE if self.is_sure is None else self.is_sure
        is_open = ~self.answered & ~is_sure
        if part is Part.OPEN:
            return ~self.answered
        if part is Part.SURE:
            return (self.known == 1) | is_sure
        if part is Part.ANSWERED:
            return self.answered & (self.known != 1)
        if part is Part.UNLIKELY:
            return is_open & ~(p >= _UNCERTAIN)
        if part is Part.LIKELY:
            return is_open & (p >= _LIKELY)
        return is_open & (p >= _UNCERTAIN) & (p < _LIKELY)

    def score(self, order: Order, likeness: Tensor) -> Tensor:
        """Return what an order sorts by, the largest first, (N,).

        Photos without a probability come after those with one; if the least certain is sought, by
        their likeness.

        Args:
            likeness: similarity to the photos that others are compared with, -1 to 1 (N,).
        """
        if order is Order.LIKE:
            score = likeness
        elif order is Order.LIKELY:
            score = self.p.nan_to_num(-1.0)
        else:
            score = torch.where(self.p.isnan(), likeness - 2, 0.5 - (self.p - 0.5).abs())
        return score - 10.0 * self.answered


class Search:
    """The photos of a review, to be searched.

    Args:
        names: their paths in the folder.
        features: see `Likeness`.
    """

    def __init__(self, names: Sequence[str], features: Tensor) -> None:
        self._names, self._features = names, features
        self._likeness = Likeness(features)
        self._typicality = torch.zeros(len(names))

    def choose_typical(self) -> None:
        """Choose photos to begin a tag with; until then none is preferred.

        Cost: a second or two.
        """
        chosen = typical_photos(self._features, _TYPICAL)
        ranks = torch.zeros(len(self._names))
        ranks[chosen] = torch.linspace(2, 1, len(chosen))
        self._typicality = ranks

    def find(
        self, wanted: Filter, states: Sequence[State], worth: Tensor, column: TagColumn
    ) -> list[int]:
        """Return the numbers of the selected photos, in order.

        Args:
            states: state of each photo.
            worth: information of the best question about each photo (N,); for the order of
                suspects, their urgency.
            column: the tag that the filter is about.
        """
        found = torch.arange(len(self._names))
        if not wanted.takes_all:
            takes = map(wanted.takes, self._names, states)
            found = found[torch.tensor(list(takes), dtype=torch.bool)]
        if wanted.part is not None:
            found = found[column.has_part(wanted.part)[found]]
        if wanted.order is Order.SUSPECTS:
            found = found[worth[found] > 0]
        if wanted.order is not Order.NAME:
            score = self._score(wanted, worth, column)
            found = found[score[found].argsort(descending=True, stable=True)]
        if wanted.order is Order.UNCERTAIN and wanted.part is Part.OPEN:
            found = _with_spot_checks(found, column.answered)
        numbers: list[int] = found.tolist()
        return numbers

    def _score(self, wanted: Filter, worth: Tensor, column: TagColumn) -> Tensor:
        if wanted.order in (Order.TEACHES, Order.SUSPECTS):
            return worth
        if wanted.like is None:
            models = (column.known == 1).nonzero().squeeze(1)
        else:
            models = torch.tensor([wanted.like])
        if wanted.order is Order.UNCERTAIN and column.is_new and not len(models):
            doubt = 0.5 - (column.p - 0.5).abs()
            return self._typicality + doubt.nan_to_num(0.0) - 10.0 * column.answered
        return column.score(wanted.order, self._likeness.to(models))


def _with_spot_checks(found: Tensor, answered: Tensor) -> Tensor:
    """Return photos with every fifth replaced by one of all that are open, drawn by chance.

    Answers about the least certain photos alone do not tell how many are missed among the others.
    The turn counts from the answers that there are, so that it comes when the first photo of the
    list is always the next question.
    """
    is_open = ~answered[found]
    open_, others = found[is_open], found[~is_open]
    count, done = len(open_), int(answered.sum())
    generator = torch.Generator().manual_seed(done // _SPOT_CHECK)
    turns = (torch.arange(count) + done) % _SPOT_CHECK == _SPOT_CHECK - 1
    drawn = open_[torch.randperm(count, generator=generator)[: int(turns.sum())]]
    rest = open_[~torch.isin(open_, drawn)]
    result = torch.empty_like(open_)
    result[turns], result[~turns] = drawn, rest
    return torch.cat([result, others])


class Likeness:
    """Cosine similarity of photos by their standardised features (N, D)."""

    def __init__(self, features: Tensor) -> None:
        self._features = features
        self._mean = features.mean(0)
        self._deviation = features.std(0, correction=0).clamp_min(_LEAST)
        parts = torch.split(features, 1024)
        self._norms = torch.cat([self._standardise(one).norm(dim=1) for one in parts])

    def to(self, numbers: Tensor) -> Tensor:
        """Return the similarity of all photos to the mean direction of some; 0 to none, (N,)."""
        if not len(numbers):
            return torch.zeros(len(self._features))
        target = F.normalize(self._standardise(self._features[numbers])).mean(0)
        weights = target / self._deviation  # standardised features @ target, without a copy
        products = self._features @ weights - self._mean @ weights
        cosine: Tensor = products / (self._norms * target.norm()).clamp_min(_LEAST)
        return cosine

    def _standardise(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._deviation
