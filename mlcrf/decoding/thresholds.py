"""Thresholds that do best on data whose labels are known, by trying all that differ."""

from enum import StrEnum
from typing import assert_never

import torch
from torch import Tensor

_EQUAL = 1e-10  # measures that differ by no more than this are a tie
_DEFAULT = 0.5


class ThresholdMeasure(StrEnum):
    """What a threshold is tuned for; each is a mean over what is known and has 1 for perfect.

    HAMMING: share of right labels. MICRO_F1: over all labels of all images at once. MACRO_F1:
    mean over labels that have a positive. SAMPLE_F1: mean over images; that of two empty sets
    is 1.
    """

    HAMMING = "hamming"
    MICRO_F1 = "micro-f1"
    MACRO_F1 = "macro-f1"
    SAMPLE_F1 = "sample-f1"


def tune_threshold(marginals: Tensor, targets: Tensor, measure: ThresholdMeasure) -> float:
    """The one threshold of all labels that maximises a measure of `marginals > threshold`.

    Tries one value between each two neighbouring marginals: their middle, or 0.5 if that lies
    between them. Of equals the nearest to 0.5 is taken; where nothing is present or known, 0.5.

    Args:
        marginals: P(y_i = 1) (N, L).
        targets: 1, 0, or -1 for unknown, which is left out (N, L).

    Cost: O(N L log(N L)).
    """
    _check(marginals, targets)
    cuts = _Cuts(marginals.reshape(-1, 1), targets.reshape(-1, 1))
    if not bool(cuts.positives):
        return _DEFAULT
    num_images, num_labels = targets.shape
    rows = torch.arange(num_images, device=targets.device).repeat_interleave(num_labels)
    columns = torch.arange(num_labels, device=targets.device).repeat(num_images)
    match measure:
        case ThresholdMeasure.HAMMING:
            values = cuts.gain_of_accuracy()
        case ThresholdMeasure.MICRO_F1:
            values = cuts.f1()
        case ThresholdMeasure.MACRO_F1:
            values = cuts.mean_f1(columns, (targets == 1).any(0))
        case ThresholdMeasure.SAMPLE_F1:
            values = cuts.mean_f1(rows, (targets >= 0).any(1))
        case _:
            assert_never(measure)
    return float(cuts.thresholds.gather(0, cuts.best(values)))


def tune_label_thresholds(
    marginals: Tensor, targets: Tensor, measure: ThresholdMeasure
) -> tuple[float, ...]:
    """One threshold a label that together maximise a measure of `marginals > thresholds`.

    Values and ties as in `tune_threshold`; a label with no positive keeps 0.5. Hamming and macro
    F1 part into labels. Micro F1 is a ratio of sums over labels, whose maximum is the fixed point
    of maximising, label by label, numerator - micro F1 x denominator (Dinkelbach). Those three
    are exact. Sample F1 does not part: from the best single threshold, one label after the other
    is given its best until none helps, a local maximum.

    Cost: O(N L log N), for sample F1 in each pass over the labels.

    Source: Dinkelbach (1967), On nonlinear fractional programming.
    """
    _check(marginals, targets)
    if measure is ThresholdMeasure.SAMPLE_F1:
        return _climb_sample_f1(marginals, targets)
    cuts = _Cuts(marginals, targets)
    match measure:
        case ThresholdMeasure.HAMMING:
            best = cuts.best(cuts.gain_of_accuracy())
        case ThresholdMeasure.MACRO_F1:
            best = cuts.best(cuts.f1())
        case ThresholdMeasure.MICRO_F1:
            best = _best_for_micro_f1(cuts)
        case _:
            assert_never(measure)
    tuned = torch.where(cuts.positives > 0, cuts.thresholds.gather(0, best)[0], _DEFAULT)
    return tuple(tuned.tolist())


class _Cuts:
    """Columns of M marginals, each cut at every place: cut r takes the r highest that are known.

    Attributes:
        order: rows by falling marginal, the unknown last (M, K).
        thresholds: a value that makes each cut (M + 1, K).
        possible: whether one does: none parts equals, or takes a marginal of 0 (M + 1, K).
        hits: true positives of each cut (M + 1, K); taken: r (M + 1, 1).
        positives: by column (K,).
    """

    def __init__(self, marginals: Tensor, targets: Tensor) -> None:
        known = targets >= 0
        scores = torch.where(known, marginals.double(), -1.0)
        ranked, self.order = scores.sort(stable=True, dim=0, descending=True)
        edge = ranked.new_zeros(1, ranked.shape[1])
        above, below = torch.cat([edge + 1, ranked]), torch.cat([ranked.clamp(min=0), edge])
        middle = (above + below) / 2
        middle = torch.where(middle < above, middle, below)  # rounding must not reach what is taken
        has_default = (below <= _DEFAULT) & (above > _DEFAULT)
        self.thresholds = torch.where(has_default, _DEFAULT, middle)
        self.possible = above > below
        self.possible[0] = True  # 1 takes nothing, not even 1
        self._truth = (targets == 1).gather(0, self.order).double()
        self.hits = torch.cat([edge, self._truth.cumsum(0)])
        self.taken = torch.arange(len(self.hits), device=targets.device).double()[:, None]
        self.positives = self.hits[-1]

    def best(self, values: Tensor) -> Tensor:
        """The cut of highest value of each column, of equals the nearest to 0.5: (1, K)."""
        values = values.masked_fill(~self.possible, -torch.inf)
        tie = values >= values.amax(0) - _EQUAL
        distance = (self.thresholds - _DEFAULT).abs().masked_fill(~tie, torch.inf)
        return distance.argmin(0, keepdim=True)

    def gain_of_accuracy(self) -> Tensor:
        """Right minus wrong among those taken, as a share of all rows (M + 1, K)."""
        return (2 * self.hits - self.taken) / max(1, len(self._truth))

    def f1(self) -> Tensor:
        """F1 of each column; 0 where it has no positive (M + 1, K)."""
        return 2 * self.hits / (self.taken + self.positives).clamp(min=1)

    def mean_f1(self, groups: Tensor, counted: Tensor) -> Tensor:
        """Mean F1 of groups of rows, for a single column: from the change that each row makes.

        Args:
            groups: the group of each row (M,).
            counted: which groups the mean is over (G,).
        """
        group = groups[self.order[:, 0]]
        by_group = group.argsort(stable=True)
        group, truth = group[by_group], self._truth[by_group, 0]
        sizes = torch.bincount(group, minlength=len(counted))
        start = (sizes.cumsum(0) - sizes)[group]
        taken = torch.arange(len(group), device=group.device) - start + 1
        hits_before = torch.cat([truth.new_zeros(1), truth.cumsum(0)])
        hits = hits_before[1:] - hits_before[start]
        positives = truth.new_zeros(len(counted)).index_add(0, group, truth)
        before = _f1(hits - truth, taken - 1 + positives[group])
        change = _f1(hits, taken + positives[group]) - before
        in_order = torch.empty_like(change)
        in_order[by_group] = change * counted[group]
        at_none = ((positives == 0) & counted).sum().double()[None]
        return (torch.cat([at_none, at_none + in_order.cumsum(0)]) / counted.sum())[:, None]


def _f1(hits: Tensor, taken_and_positives: Tensor) -> Tensor:
    ratio = 2 * hits / taken_and_positives.clamp(min=1)
    return torch.where(taken_and_positives == 0, 1.0, ratio)


def _best_for_micro_f1(cuts: _Cuts) -> Tensor:
    default = cuts.best(torch.zeros_like(cuts.hits))  # all equal, so the cut nearest to 0.5
    value, last = 0.0, -1.0
    best = default
    while value > last:
        best = cuts.best((2 * cuts.hits - value * cuts.taken) / max(1, len(cuts.order)))
        best = torch.where(cuts.positives > 0, best, default)
        taken = float(best.sum() + cuts.positives.sum())
        last, value = value, float(2 * cuts.hits.gather(0, best).sum()) / max(1.0, taken)
    return best


def _climb_sample_f1(marginals: Tensor, targets: Tensor) -> tuple[float, ...]:
    marginals, known, truth = marginals.double(), targets >= 0, (targets == 1).double()
    present = truth.any(0)
    cuts = {
        label: _Cuts(marginals[:, [label]], targets[:, [label]])
        for label in present.nonzero().flatten().tolist()
    }
    start = tune_threshold(marginals, targets, ThresholdMeasure.SAMPLE_F1)
    thresholds = torch.where(present, start, _DEFAULT).double()
    states = ((marginals > thresholds) & known).double()
    hits, sizes = (states * truth).sum(1), states.sum(1) + truth.sum(1)
    value, last = 0.0, -1.0
    while value > last + _EQUAL:
        for label, cut in cuts.items():
            right = truth[:, label]
            hits, sizes = hits - states[:, label] * right, sizes - states[:, label]
            gain = (_f1(hits + right, sizes + 1) - _f1(hits, sizes))[cut.order]
            values = torch.cat([gain.new_zeros(1, 1), gain.cumsum(0)]) / len(gain)
            thresholds[label] = cut.thresholds.gather(0, cut.best(values))
            states[:, label] = (marginals[:, label] > thresholds[label]) & known[:, label]
            hits, sizes = hits + states[:, label] * right, sizes + states[:, label]
        last, value = value, float(_f1(hits, sizes).mean()) if len(hits) else 0.0
    return tuple(thresholds.tolist())


def _check(marginals: Tensor, targets: Tensor) -> None:
    assert marginals.ndim == 2 and marginals.shape == targets.shape, "expected (N, L) of both"
    assert bool(((marginals >= 0) & (marginals <= 1)).all()), "expected probabilities"
