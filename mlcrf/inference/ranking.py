"""Label sets ranked by their joint probability: mass ahead of a set, and the first sets."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference.exact.partition import count_states
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.exact.sums import Scores, Sums

MOST_STATES = 24  # log2 of the largest number of label sets that are ranked by enumeration
_MOST_OF_EACH = 16  # the same where each image has its own couplings
_AT_ONCE = 256  # images whose half-states are in memory
_BINS = 1024
_FIRST_FLOOR, _STEP, _LAST_FLOOR = -7.0, 3.0, -60.0  # log-probabilities
_LOG_TINY = -708.0  # log of the smallest normal float64
SLACK = 1e-9  # rounding of sums of probabilities

Floats = NDArray[np.float64]


class Standing(NamedTuple):
    """The place of one label set of each image among all, float64 (N,).

    Attributes:
        ahead: total probability of the more probable sets.
        equal: total probability of the sets of the same probability, itself included.
    """

    ahead: Tensor
    equal: Tensor


@dataclass(frozen=True)
class Leaders:
    """The most probable label sets of each image, down to some total probability.

    Attributes:
        count: number of sets, float64 (N,).
        mass: total probability of the sets, float64 (N,).
        present, absent: labels that all of the sets have, and that none has, bool (N, L).
        is_exact: whether all of this is exact, or estimated from samples.
    """

    count: Tensor
    mass: Tensor
    present: Tensor
    absent: Tensor
    is_exact: bool


class Ranker(Protocol):
    """A ranking of the label sets of images by joint probability.

    Sets of equal probability have one place. The leaders of an image are the sets from the top down
    whose `ahead + share * equal` is at most `reach`; those of the first place always are.
    """

    def standing(
        self, potentials: Potentials, states: Tensor, *, known: Tensor | None = None
    ) -> Standing:
        """Return the place of a label set of each image (N, L)."""
        ...

    def leaders(
        self,
        potentials: Potentials,
        reach: float,
        share: Tensor,
        *,
        known: Tensor | None = None,
    ) -> Leaders:
        """Return the leaders of each image; `share` is from 0 to 1, float64 (N,)."""
        ...


def can_enumerate(potentials: Potentials) -> bool:
    """Return whether `EnumeratingRanker` can rank the label sets of these CRFs."""
    most = _MOST_OF_EACH if potentials.varies_by_image else MOST_STATES
    log_states = count_states(potentials.num_labels, potentials.rules)
    return potentials.has_log_score and log_states <= most


def all_sets(potentials: Potentials, *, known: Tensor | None = None) -> Leaders:
    """Return every label set as a leader, without listing any.

    The count is an upper bound where rules leave many states; see `count_states`.
    """
    clamped = check_known(potentials, known)
    rules, num_labels = potentials.rules, potentials.num_labels
    counts = {}
    for row in {tuple(row) for row in clamped.tolist()}:
        columns = [at for at in range(num_labels) if row[at] == UNKNOWN]
        left = count_states(len(columns), rules.given(row, columns)) if columns else 0.0
        counts[row] = float(round(2.0**left)) if left <= 1000 else math.inf
    return Leaders(
        torch.tensor([counts[tuple(row)] for row in clamped.tolist()], dtype=torch.float64),
        torch.ones(len(clamped), dtype=torch.float64),
        clamped == 1,
        clamped == 0,
        is_exact=True,
    )


class EnumeratingRanker:
    """An exact ranking of up to 2^24 label sets, by the two halves of the labels.

    The probability of a half-state bounds that of every set with it, so only pairs of half-states
    that are probable enough are visited. There are at most 1 / p sets of a probability above p:
    few where the model is sure. The mass above the true set is a sum over the pairs above it.
    For the leaders a floor falls until the sets above it have enough mass; they are counted in
    bins by probability, and only the bin where the mass is reached is sorted, so that nothing is
    listed where an image has millions of leaders.

    Made for couplings that all images share; images with couplings of their own are ranked one by
    one. Not thread-safe.

    Args:
        potentials: any of the images; couplings and rules are kept.

    Raises:
        TooManyLabelsError: when first used, see `split_labels`; ask `can_enumerate` first.
        PotentialsError: potentials of later calls have other couplings or rules.

    Cost: that of the marginals in float64, and one to four visits of the pairs above the floor, in
    all 1 to 20 ms an image at 24 labels. Memory: 16 bytes x 2^L as long as it lives.
    """

    def __init__(self, potentials: Potentials) -> None:
        self._potentials = potentials

    def standing(
        self, potentials: Potentials, states: Tensor, *, known: Tensor | None = None
    ) -> Standing:
        """Return the place of a label set of each image (N, L).

        Sets that are impossible come last: all else is ahead.
        """
        wanted = states.cpu().long()
        result = torch.empty(2, len(wanted), dtype=torch.float64)
        for image, one in self._images(potentials, known):
            result[:, image] = result.new_tensor(one.standing(wanted[image]))
        return Standing(*result)

    def leaders(
        self,
        potentials: Potentials,
        reach: float,
        share: Tensor,
        *,
        known: Tensor | None = None,
    ) -> Leaders:
        """Return the leaders of each image; see `Ranker`."""
        if reach >= 1:
            return all_sets(potentials, known=known)
        size = potentials.unary.shape
        present, absent = (torch.empty(size, dtype=torch.bool) for _ in range(2))
        numbers = torch.empty(2, size[0], dtype=torch.float64)
        for image, one in self._images(potentials, known):
            count, mass, least = one.cut(reach, float(share[image]))
            numbers[:, image] = numbers.new_tensor((count, mass))
            present[image], absent[image] = one.sure(least)
        count_of, mass_of = numbers
        return Leaders(count_of, mass_of, present, absent, is_exact=True)

    def _require_same(self, potentials: Potentials) -> None:
        ours, theirs = self._potentials, potentials
        if ours.rules != theirs.rules or ours.varies_by_image != theirs.varies_by_image:
            raise PotentialsError("rules: expected those that the ranker was made for")
        if not (
            ours.varies_by_image
            or ours.pairwise is theirs.pairwise
            or torch.equal(ours.pairwise, theirs.pairwise)
        ):
            raise PotentialsError("pairwise: expected those that the ranker was made for")

    @cached_property
    def _halves(self) -> "_Halves":
        return _Halves(self._potentials.pairwise_matrix(), self._potentials)

    @torch.no_grad()
    def _images(
        self, potentials: Potentials, known: Tensor | None
    ) -> Iterator[tuple[int, "_Pairs"]]:
        """Yield each image's number and its pairs of half-states."""
        clamped = check_known(potentials, known).cpu()
        unary = potentials.unary.detach().double().cpu()
        self._require_same(potentials)
        if potentials.varies_by_image:
            for image, matrix in enumerate(potentials.pairwise_matrix()):
                row = slice(image, image + 1)
                yield from _Halves(matrix, potentials).images(unary[row], clamped[row], image)
            return
        for start in range(0, len(unary), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            yield from self._halves.images(unary[rows], clamped[rows], start)


class _Halves:
    """The half-states of one matrix of couplings, and the couplings of all pairs of them."""

    def __init__(self, matrix: Tensor, potentials: Potentials) -> None:
        self.split = Split(matrix.cpu(), potentials.rules, first_level=1)
        self.couplings: Floats = self.split.kernel.couplings(self.split.half_a.states).numpy()
        sides = self.split.half_a, self.split.half_b
        self.labels = [half.labels.numpy() for half in sides]
        self.states = [half.states.numpy() == 1 for half in sides]

    def images(self, unary: Tensor, known: Tensor, first: int) -> Iterator[tuple[int, "_Pairs"]]:
        """Yield the number of each image, from `first` on, and its pairs of half-states."""
        scores = Scores(unary, known)
        sums = self.split.sums(scores)
        log_a = self.split.half_a.log_scores(unary, known) - sums.log_partition[:, None]
        log_b = self.split.half_b.log_scores(unary, known)
        most_a = self._bounds(sums, len(unary))
        rows = zip(log_a.numpy(), log_b.numpy(), most_a.numpy(), strict=True)
        for image, row in enumerate(rows, start=first):
            yield image, _Pairs(self, *row)

    def _bounds(self, sums: Sums, num_images: int) -> Tensor:
        """Return bounds on the probability of every half-state of A (N, S_A)."""
        bounds = torch.empty(num_images, len(self.split.half_a), dtype=torch.float64)
        for linear in sums.linear:
            mass = linear.mass_a
            underflow = _LOG_TINY + self.split.kernel.exponent_bound
            underflow += math.log(3 * self.split.num_states)
            hidden = (underflow - linear.total.log()).exp()
            bounds[linear.images] = mass / linear.total[:, None] * (1 + SLACK) + hidden[:, None]
        for images, mass, _ in sums.log_space_masses(0):
            bounds[images] = mass * (1 + SLACK)
        return bounds


@dataclass(frozen=True)
class _Pairs:
    """The pairs of half-states of one image.

    Attributes:
        log_a, log_b: log-probability of a pair but for `couplings` (S_A,), (S_B,).
        most_a: bounds on the probability of each half-state of A.
    """

    halves: _Halves
    log_a: Floats
    log_b: Floats
    most_a: Floats

    def standing(self, state: Tensor) -> tuple[float, float]:
        """Return what is ahead of a label set (L,), and what is equal to it."""
        from mlcrf.inference.exact import ranking_kernels as kernels

        at = self._log_prob(state.numpy())
        if at == -math.inf:
            return 1.0, 0.0
        half = 1 / kernels.GRID
        ahead, equal = kernels.sum_above(*self._above(at - half), at)
        return float(ahead), float(equal)

    def cut(self, reach: float, share: float) -> tuple[float, float, float]:
        """Return the number of leaders, their mass, and the log-probability of the last."""
        from mlcrf.inference.exact import ranking_kernels as kernels

        floor, reach = _FIRST_FLOOR, reach + SLACK
        while True:
            scale = _BINS / (-floor if floor > -math.inf else -_LAST_FLOOR)
            counts, masses = np.zeros(_BINS, dtype=np.int64), np.zeros(_BINS)
            above = self._above(floor)
            kernels.tally(*above, floor, scale, counts, masses)
            total = masses.cumsum()
            if total[-1] > reach or floor == -math.inf:
                break
            floor = floor - _STEP if floor > _LAST_FLOOR else -math.inf
        if total[-1] <= reach:  # all
            return float(counts.sum()), min(float(total[-1]), 1.0), -math.inf
        place = int(np.argmax(total > reach))
        values = np.empty(counts[place])
        kernels.collect(*above, floor, scale, place, _BINS - 1, values)
        ranked, number = np.unique(-values, return_counts=True)
        equal = np.exp(-ranked) * number
        before = float(total[place - 1]) if place else 0.0
        ahead = before + equal.cumsum() - equal
        taken = int((ahead + share * equal <= reach).sum())
        count, least = float(counts[:place].sum()), None
        if taken == 0 and count == 0:
            taken = 1  # the most probable set is always one
        if taken:
            least, before = -ranked[taken - 1], before + float(equal[:taken].sum())
        else:  # the last of the bin before, whose lower end is as good
            least = -place / scale
        return count + float(number[:taken].sum()), min(before, 1.0), float(least)

    def sure(self, least: float) -> tuple[Tensor, Tensor]:
        """Return the labels of all sets of at least a log-probability, and of none (L,)."""
        from mlcrf.inference.exact import ranking_kernels as kernels

        marks = [np.zeros(len(one), dtype=bool) for one in (self.log_a, self.log_b)]
        kernels.mark(*self._above(least), max(least, -1e300), *marks)
        num_labels = sum(map(len, self.halves.labels))
        present, absent = (np.zeros(num_labels, dtype=bool) for _ in range(2))
        for labels, states, marked in zip(
            self.halves.labels, self.halves.states, marks, strict=True
        ):
            present[labels] = states[marked].all(0)
            absent[labels] = ~states[marked].any(0)
        return torch.from_numpy(present), torch.from_numpy(absent)

    def _above(self, floor: float) -> tuple[NDArray[Any], ...]:
        """Return the arguments of a kernel that visits all sets above a log-probability."""
        least = math.exp(floor) * (1 - SLACK)
        rows = np.flatnonzero((self.most_a >= least) & (self.log_a > -math.inf))
        return self.log_a, self.halves.couplings, self.log_b, rows

    def _log_prob(self, state: NDArray[np.int64]) -> float:
        halves = self.halves
        places = [
            np.flatnonzero((states == (state[labels] == 1)).all(1))
            for labels, states in zip(halves.labels, halves.states, strict=True)
        ]
        if not all(map(len, places)):
            return -math.inf
        a, b = (int(one[0]) for one in places)
        return float(self.log_a[a] + halves.couplings[a, b] + self.log_b[b])
