"""The photos of a study, and answers about them: all that the measures need."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.beyond_pairwise.fits import Fit, Terms, fit_terms
from experiments.beyond_pairwise.label_sets import HalfStates, HigherOrderCrf, Sums
from experiments.beyond_pairwise.unaries import Photos
from mlcrf.crf import Potentials
from mlcrf.decoding import empty_probability, maximise_expected_f1
from mlcrf.decoding.counts import count_probabilities
from mlcrf.inference.exact.partition import split_labels
from mlcrf.metrics import Predictions, Statistics, gather_statistics
from mlcrf.rules import Rules

TYPICAL = 1500  # photos by which half-states are chosen
FIT_LOST, _SCORE_LOST = 1e-4, 1e-6  # share of the mass of a half that is left out


@dataclass(frozen=True)
class Answer:
    """Statements of a model about photos: all that the measures need."""

    marginals: Tensor
    best: Tensor
    nll: Tensor
    f1_sets: Tensor

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> "Answer":
        """The answer about all photos, of its fields for some of them."""
        return cls(*(torch.cat(one) for one in zip(*parts, strict=True)))

    def statistics(self, targets: Tensor) -> Statistics:
        """Counts by photo; labels are chosen at a marginal of one half."""
        parts = (self.marginals.clamp(0, 1), self.best, self.nll)
        marginals, best, nll = (one.numpy() for one in parts)
        predictions = Predictions(marginals.astype(np.float64), best, nll.astype(np.float64))
        return gather_statistics(predictions, targets.numpy().astype(np.int8))

    def f1(self, targets: Tensor) -> NDArray[np.float64]:
        """F1 of the chosen set of each photo, 1 if both are empty."""
        shared = (self.f1_sets * targets).sum(1).double()
        both = (self.f1_sets.sum(1) + targets.sum(1)).double()
        return torch.where(both > 0, 2 * shared / both.clamp(min=1), 1.0).numpy()


@dataclass
class Study:
    """The photos of one set of labels and one kind of head, and the half-states of its sums."""

    fit: Photos
    held_out: Photos
    test: Photos
    replicates: int
    most_steps: int
    epochs: int
    every: HalfStates = field(init=False)

    def __post_init__(self) -> None:
        strength = np.nan_to_num(np.corrcoef(self.fit.targets.numpy().T))
        parts = split_labels(torch.from_numpy(strength), Rules())
        precision = torch.float64 if self.num_labels < 16 else torch.float32
        self.every = dataclasses.replace(HalfStates.every(parts), precision=precision)

    @property
    def num_labels(self) -> int:
        """L."""
        return self.fit.targets.shape[1]

    @torch.no_grad()
    def likely(self, crf: HigherOrderCrf, leave_out: float) -> HalfStates:
        """The half-states that carry nearly all mass of typical photos; all, of few labels."""
        if self.num_labels < 16:
            return self.every
        return self.every.likely(Sums(crf, self.every), self.fit.odds[:TYPICAL], leave_out)

    def fitted(self, start: HigherOrderCrf, states: HalfStates, terms: Terms) -> Fit:
        """A fit on the photos to fit on, with its loss on those held out."""
        terms = dataclasses.replace(terms, most_steps=min(terms.most_steps, self.most_steps))
        return fit_terms(start, self.fit, states, terms, self.held_out)

    @torch.no_grad()
    def answer(self, crf: HigherOrderCrf) -> Answer:
        """The answers of a CRF on the test photos."""
        sums = Sums(crf, self.likely(crf, _SCORE_LOST))
        parts = []
        for part in self.test.batches():
            weights = sums.weigh(part.odds)
            counts = weights.count_marginals()
            nll = weights.log_partition() - crf.log_score(part.odds, part.targets)
            sets, _ = maximise_expected_f1(counts, empty_probability(counts))
            parts.append((counts.sum(-1), weights.best(), nll, sets))
        return Answer.joined(parts)

    @torch.no_grad()
    def drawn(self, crf: HigherOrderCrf, photos: Photos) -> Iterator[Tensor]:
        """Label sets of photos, drawn from a CRF as often as replicates are wanted."""
        sums = Sums(crf, self.likely(crf, FIT_LOST))
        generator = torch.Generator().manual_seed(0)
        each = [one.sample(self.replicates, generator) for one in sums.batches(photos.odds)]
        return iter(torch.cat(each, 1))

    @torch.no_grad()
    def oracles(self, crf: HigherOrderCrf) -> dict[str, Answer]:
        """Answers of a CRF that knows the number of labels, or all other labels, of each photo."""
        sums = Sums(crf, self.likely(crf, _SCORE_LOST))
        targets = self.test.targets
        counts = torch.cat([one.count_marginals() for one in sums.batches(self.test.odds)])
        size = targets.sum(1)
        of_size = count_probabilities(counts).gather(1, size[:, None])
        at = size[:, None, None].expand(-1, self.num_labels, 1)
        known = torch.where(size[:, None] > 0, counts.gather(2, at)[..., 0] / of_size, 0.0)
        found = {"the number of labels": known}
        others = torch.zeros(targets.shape, dtype=torch.float64)
        for label in range(self.num_labels):
            scores = []
            for state in (0, 1):
                y = targets.clone()
                y[:, label] = state
                scores.append(crf.log_score(self.test.odds, y))
            others[:, label] = (scores[1] - scores[0]).sigmoid()
        found["all other labels"] = others
        return {
            name: Answer(p, (p > 0.5).long(), torch.zeros(len(p)), (p > 0.5).long())
            for name, p in found.items()
        }


def make_study(photos: dict[str, Photos], *, quick: bool) -> Study:
    """Cut the photos to learn from in those to fit on and a fifth that is held out."""
    seen = photos["seen"]
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    held_out = torch.zeros(len(seen), dtype=torch.bool)
    held_out[order[: len(seen) // 5]] = True
    limits = {"replicates": 10, "most_steps": 5, "epochs": 1} if quick else {}
    limits = limits or {"replicates": 50, "most_steps": 60, "epochs": 30}
    return Study(seen.rows(~held_out), seen.rows(held_out), photos["test"], **limits)


@torch.no_grad()
def answer_exactly(method: Any, batches: Iterable[tuple[Potentials, Tensor]]) -> Answer:
    """The answers of exact inference about photos: their potentials and targets, batch by batch."""
    parts = []
    for potentials, targets in batches:
        posterior = method(potentials)
        counts = method.count_marginals(potentials)
        sets, _ = maximise_expected_f1(counts, empty_probability(counts))
        nll = posterior.log_partition - potentials.log_score(targets)
        best = method.map_states(potentials)
        parts.append((posterior.marginals.double(), best, nll.double(), sets))
    return Answer.joined(parts)
