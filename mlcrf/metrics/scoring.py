"""Scores of predictions as functions of the weight of each image.

The weights are all 1, or how often each image was drawn in a bootstrap resample. With weights of 1
the values equal those of torchmetrics and scikit-learn, which the tests check.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.labels import UNKNOWN
from mlcrf.metrics.curves import CALIBRATION_BINS, Floats, Ranking, calibration_bins, share
from mlcrf.metrics.measures import Measures


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for N images.

    Attributes:
        marginals: P(y_i = 1) (N, L).
        map_states: most probable label vectors (N, L).
        nll: negative log-probability of each image's observed labels, in nats (N,).
        chosen: label sets chosen by the decision rule (N, L); None for every marginal above 0.5.
        best: label sets of k labels each, for the measures at k (N, L); None for no such measures.
        costs: costs of a false, a missed and an open label (3, L), for the measures of cost; None
            for no such measures. A label that `chosen` leaves open is -1 there.
        set_probability: probability that all known labels of an image are as in `map_states` (N,);
            None for no calibration error of sets.
    """

    marginals: Floats
    map_states: NDArray[np.int64]
    nll: Floats
    chosen: NDArray[np.int64] | None = None
    best: NDArray[np.int64] | None = None
    costs: Floats | None = None
    set_probability: Floats | None = None

    def rows(self, wanted: NDArray[np.bool_]) -> "Predictions":
        """Return the predictions of some of the images, bool (N,)."""
        return Predictions(
            self.marginals[wanted],
            self.map_states[wanted],
            self.nll[wanted],
            None if self.chosen is None else self.chosen[wanted],
            None if self.best is None else self.best[wanted],
            self.costs,
            None if self.set_probability is None else self.set_probability[wanted],
        )


@dataclass(frozen=True)
class Unknown:
    """Numbers of targets that are unknown.

    Attributes:
        labels: unknown targets.
        all_labels: all targets.
        images: images of which nothing is known, which are left out.
    """

    labels: int
    all_labels: int
    images: int

    @classmethod
    def of(cls, targets: NDArray[np.int8]) -> "Unknown":
        """Count targets 1, 0, -1 unknown (N, L)."""
        unknown = targets < 0
        return cls(int(unknown.sum()), unknown.size, int(unknown.all(1).sum()))

    @property
    def signature(self) -> dict[str, int]:
        """The part of a signature; empty if all is known."""
        return {"unknown": self.labels} if self.labels else {}


@dataclass(frozen=True)
class Outcomes:
    """True positives, false positives and false negatives of label sets, 0 or 1 (N, L)."""

    true_positive: Floats
    false_positive: Floats
    false_negative: Floats

    @classmethod
    def of(cls, said: NDArray[np.bool_], targets: NDArray[np.int8]) -> "Outcomes":
        """Compare label sets with targets; what is unknown is neither right nor wrong."""
        present, absent = targets == 1, targets == 0
        return cls(
            *(one.astype(np.float64) for one in (said & present, said & absent, ~said & present))
        )

    def count(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the numbers of each, image n counted `weights[n]` times (L,)."""
        return (
            weights @ self.true_positive,
            weights @ self.false_positive,
            weights @ self.false_negative,
        )

    def sizes(self) -> tuple[Floats, Floats, Floats]:
        """Return the numbers of each in every image (N,)."""
        return (
            self.true_positive.sum(1),
            self.false_positive.sum(1),
            self.false_negative.sum(1),
        )


@dataclass(frozen=True)
class Statistics:
    """Counts by image from which all measures are computed, of images of which something is known.

    Attributes:
        nll: (N,); wrong, observed: number of labels (N,); right_set: 0 or 1 (N,).
        chosen: outcomes of the chosen label sets; best: those at k, or None.
        gap: by bin the sum of probability minus truth (N, bins).
        scores, targets: marginals (N, L) and 1, 0, -1 unknown (N, L), for ranking.
        priced: the measures of cost, of each its value for every image (N,); or none.
        set_gap: as `gap`, of the most probable label sets (N, bins); None if not given.
    """

    nll: Floats
    wrong: Floats
    observed: Floats
    right_set: Floats
    chosen: Outcomes
    best: Outcomes | None
    gap: Floats
    scores: Floats
    targets: NDArray[np.int8]
    priced: dict[str, Floats]
    set_gap: Floats | None = None

    @cached_property
    def by_image(self) -> dict[str, Floats]:
        """The measures that are means over images: of each its value for every image (N,)."""
        hits, false, missed = self.chosen.sizes()
        empty = hits + false + missed == 0
        jaccard = _quotients(hits, hits + false + missed, empty)
        return {
            "nll": self.nll,
            "wrong_per_image": self.wrong,
            "subset_accuracy": self.right_set,
            "chosen_accuracy": (self.wrong == 0).astype(np.float64),
            "example_precision": _quotients(hits, hits + false, empty),
            "example_recall": _quotients(hits, hits + missed, empty),
            "example_f1": 2 * jaccard / (1 + jaccard),
            "example_jaccard": jaccard,
            **rank_labels(self.scores, self.targets),
            **self.priced,
        }

    @cached_property
    def _columns(self) -> Floats:
        return np.stack(list(self.by_image.values()), axis=1)

    @cached_property
    def _rankings(self) -> list["Ranking"]:
        return [Ranking(s, t) for s, t in zip(self.scores.T, self.targets.T, strict=True)]

    def average_precisions(self, weights: Floats | None = None) -> Floats:
        """Return the average precision of each label, NaN without a positive (L,)."""
        ones = np.ones(len(self.nll)) if weights is None else weights
        return np.array([ranking.average_precision(ones) for ranking in self._rankings])

    def measures(self, weights: Floats | None = None) -> Measures:
        """Return all measures, image n counted `weights[n]` times. Cost: O(N L)."""
        w = np.ones(len(self.nll)) if weights is None else weights
        observed = w @ self.observed
        means = dict(zip(self.by_image, (w @ self._columns / w.sum()).tolist(), strict=True))
        counts = self.chosen.count(w)
        hits, false, missed = counts
        present = hits + missed > 0
        precisions = self.average_precisions(w)
        f1 = 2 * hits[present] / (2 * hits + false + missed)[present]
        macro_precision, macro_recall, f1_of_means = _score_labels(*counts)
        micro_precision, micro_recall, micro_f1 = _score_pooled(*counts)
        return Measures(
            **means,
            hamming=share(float(w @ self.wrong), float(observed)),
            mean_average_precision=_mean(precisions[present]),
            labels_with_positives=int(present.sum()),
            micro_f1=micro_f1,
            macro_f1=_mean(f1),
            calibration_error=share(float(np.abs(w @ self.gap).sum()), float(observed)),
            macro_precision=macro_precision,
            macro_recall=macro_recall,
            f1_of_means=f1_of_means,
            micro_precision=micro_precision,
            micro_recall=micro_recall,
            set_calibration_error=None
            if self.set_gap is None
            else share(float(np.abs(w @ self.set_gap).sum()), float(w.sum())),
            **self._measures_at_k(w),
        )

    def _measures_at_k(self, weights: Floats) -> dict[str, Any]:
        if self.best is None:
            return {}
        counts = self.best.count(weights)
        names = ("precision_at_k", "recall_at_k", "f1_at_k")
        return {
            **dict(zip(names, _score_labels(*counts), strict=True)),
            **{f"micro_{n}": v for n, v in zip(names, _score_pooled(*counts), strict=True)},
            "labels_found_at_k": int((counts[0] > 0).sum()),
        }


def gather_statistics(predictions: Predictions, targets: NDArray[np.int8]) -> Statistics:
    """Count right and wrong labels image by image; targets 1, 0, -1 unknown (N, L).

    Images of which nothing is known are left out.
    """
    bins = calibration_bins(predictions.marginals)
    known = targets >= 0
    some = np.asarray(known.any(1))
    if not some.all():
        predictions, targets = predictions.rows(some), targets[some]
        bins, known = bins[some], known[some]
    truth = targets == 1
    chosen, best = predictions.chosen, predictions.best
    said = predictions.marginals > 0.5 if chosen is None else chosen == 1
    excess = np.where(known, predictions.marginals - truth, 0.0)
    gap = np.stack([np.where(bins == b, excess, 0.0).sum(1) for b in range(CALIBRATION_BINS)], 1)
    right_set = ((predictions.map_states == truth) | ~known).all(1).astype(np.float64)
    return Statistics(
        nll=predictions.nll,
        wrong=((said != truth) & known).sum(1).astype(np.float64),
        observed=known.sum(1).astype(np.float64),
        right_set=right_set,
        chosen=Outcomes.of(said, targets),
        best=None if best is None else Outcomes.of(best == 1, targets),
        gap=gap,
        scores=predictions.marginals,
        targets=targets,
        priced={} if predictions.costs is None else _priced(predictions, said, targets),
        set_gap=_gap_of_sets(predictions.set_probability, right_set),
    )


def _gap_of_sets(probability: Floats | None, right: Floats) -> Floats | None:
    """Return by bin the probability of the most probable set minus its truth (N, bins)."""
    if probability is None:
        return None
    bins = calibration_bins(probability)
    return np.where(bins[:, None] == np.arange(CALIBRATION_BINS), (probability - right)[:, None], 0)


def _priced(
    predictions: Predictions, said: NDArray[np.bool_], targets: NDArray[np.int8]
) -> dict[str, Floats]:
    """Return the measures of cost of every image (N,); labels whose target is unknown cost 0."""
    if predictions.costs is None:
        return {}
    false, missed, still_open = predictions.costs
    left_open = np.zeros_like(said) if predictions.chosen is None else predictions.chosen == UNKNOWN
    # infinity, of labels that are never open, must not meet a zero
    price_of_open = np.where(left_open, still_open, 0.0)
    costs = {}
    present = (targets == 1).astype(np.float64)
    for name, chance in (("cost", present), ("expected_cost", predictions.marginals)):
        each = np.where(said, (1 - chance) * false, chance * missed)
        each = np.where(left_open, price_of_open, each)
        costs[name] = np.where(targets >= 0, each, 0.0).sum(1)
    return {**costs, "open_labels": left_open.sum(1).astype(np.float64)}


def rank_labels(scores: Floats, targets: NDArray[np.int8]) -> dict[str, Floats]:
    """Return measures of how each image's known labels are ranked by score, by name (N,).

    With P the present and A the absent labels of an image, s their scores, and rank_i the number of
    its known labels with a score of at least s_i, equal scores included:

        ranking_loss: share of the pairs (i in P, j in A) with s_i <= s_j; 0 if there is none
        coverage_error: largest rank_i over P; 0 if P is empty
        label_ranking_average_precision: mean over i in P of |{j in P: s_j >= s_i}| / rank_i;
            1 if P is empty
        one_error: share of absent labels among those of the highest score; 0 if none is known

    The first three treat ties and empty sets as scikit-learn does.

    Source: Schapire and Singer (2000), BoosTexter: A boosting-based system for text categorization,
    for all but the ranking loss; ties and empty sets: scikit-learn, `sklearn.metrics`.
    """
    known = targets >= 0
    ranked = np.where(known, scores, -np.inf)
    order = np.argsort(-ranked, axis=1, kind="stable")
    ranked, known, present = (
        np.take_along_axis(one, order, axis=1) for one in (ranked, known, targets == 1)
    )
    # the last of the labels with the same score
    last = np.ones(ranked.shape, dtype=bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    places = np.where(last, np.arange(ranked.shape[1]), ranked.shape[1])
    ends = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    rank, hits = (
        np.take_along_axis(np.cumsum(one, axis=1), ends, axis=1) for one in (known, present)
    )
    positives, negatives = present.sum(1), (known & ~present).sum(1)
    pairs = positives * negatives
    swapped = (present * (rank - hits)).sum(1)
    found = (present * hits / np.maximum(rank, 1)).sum(1)
    nothing = positives == 0
    return {
        "ranking_loss": _quotients(swapped, pairs),
        "coverage_error": (present * rank).max(axis=1, initial=0).astype(np.float64),
        "label_ranking_average_precision": _quotients(found, positives, nothing),
        "one_error": _quotients((rank - hits)[:, 0], rank[:, 0]),
    }


def _quotients(parts: Floats, wholes: Floats, is_one: NDArray[np.bool_] | None = None) -> Floats:
    """Divide; 0 where the divisor is zero, and 1 where told."""
    quotients = parts / np.where(wholes == 0, 1, wholes)
    return quotients if is_one is None else np.where(is_one, 1.0, quotients)


def _score_labels(hits: Floats, false: Floats, missed: Floats) -> tuple[float, float, float]:
    """Return mean precision, mean recall and their F1, from counts by label (L,)."""
    present = hits + missed > 0
    hits, predicted, positives = hits[present], (hits + false)[present], (hits + missed)[present]
    # a label that is never predicted has no hits: precision 0
    precision = _mean(hits / np.where(predicted > 0, predicted, 1))
    recall = _mean(hits / positives)
    either = precision + recall
    return precision, recall, 2 * precision * recall / either if either else 0.0


def _score_pooled(hits: Floats, false: Floats, missed: Floats) -> tuple[float, float, float]:
    """Return precision, recall and F1 of counts summed over labels; 1 if all are zero."""
    hit, predicted, positives = (float(one.sum()) for one in (hits, hits + false, hits + missed))
    if not predicted and not positives:
        return 1.0, 1.0, 1.0
    return (
        hit / predicted if predicted else 0.0,
        hit / positives if positives else 0.0,
        2 * hit / (predicted + positives),
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
