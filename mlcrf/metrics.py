"""Scores of predictions as functions of the weight of each image, their intervals, and curves.

The weights are all 1, or how often each image was drawn in a bootstrap resample. With weights of 1
the values equal those of torchmetrics and scikit-learn, which the tests check. docs/measures.md
defines all measures and says who uses them under which name.

To add a measure: a field of `Measures`; its formula in `Statistics.by_image` if it is a mean over
images, else in `Statistics.measures`; its title in reports/tables.py, its row in docs/measures.md;
its name in `LOWER_IS_BETTER` if it is a loss, in `MAIN_MEASURES` if it is always shown, in
`SYMBOLS` if papers have a symbol for it. A measure that is only there where it is asked for is None
elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import ProbabilitiesError
from mlcrf.labels import UNKNOWN

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]

CALIBRATION_BINS = 15
_COUNT = "labels_found_at_k"
_ROUNDING = 1e-6  # of float32 probabilities


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
class Measures:
    """Scores of one model, without unknown targets. Chosen: see `Predictions.chosen`.

    Attributes:
        nll: mean negative log-probability of the label set of an image, in nats.
        hamming: share of wrong labels in the chosen label sets.
        wrong_per_image: mean number of wrong labels in the chosen label set.
        subset_accuracy: share of images whose MAP label set is entirely right.
        chosen_accuracy: share of images whose chosen label set is entirely right.
        example_f1, example_jaccard: mean over images of 2 |A and B| / (|A| + |B|) and of
            |A and B| / |A or B| of chosen labels A and true labels B; 1 if both are empty.
        mean_average_precision: mean over labels with a positive; NaN if there is none.
        labels_with_positives: number of labels with a positive.
        micro_f1: F1 of the chosen labels, counts summed over labels.
        macro_f1: mean F1 of the chosen labels over labels with a positive; 0 if never chosen.
        calibration_error: mean gap of probability and frequency over 15 equal bins, weighted.
        macro_precision, macro_recall: means over labels with a positive; a label that is never
            chosen has precision 0.
        f1_of_means: harmonic mean of these two; at least `macro_f1`.
        micro_precision, micro_recall: counts summed over labels.
        example_precision, example_recall: means over images; 1 if nothing is chosen and nothing
            present, 0 if only the divisor is zero.
        ranking_loss, coverage_error, label_ranking_average_precision, one_error: means over images,
            whose labels are ranked by marginal; see `rank_labels`.
        precision_at_k, recall_at_k, f1_at_k: as `macro_precision`, `macro_recall` and
            `f1_of_means`, each image having exactly its k best labels (see `Predictions.best`).
            These seven are None if not requested.
        labels_found_at_k: number of labels with a recall above 0, "N+" in image annotation.
        micro_precision_at_k, micro_recall_at_k, micro_f1_at_k: counts summed over labels.
        set_calibration_error: as `calibration_error`, of the most probable label sets: how probable
            they are, and whether all that is known of them is right. None if not given.
        cost: mean over images of the costs of their wrong and open labels. These three are None
            if not requested.
        expected_cost: mean of what the marginals say of it.
        open_labels: mean number of labels of an image that are left open.

    The measures at k are those of image annotation since Duygulu, Barnard, de Freitas and Forsyth
    (2002), Object recognition as machine translation.
    """

    nll: float
    hamming: float
    wrong_per_image: float
    subset_accuracy: float
    chosen_accuracy: float
    example_f1: float
    example_jaccard: float
    mean_average_precision: float
    labels_with_positives: int
    micro_f1: float
    macro_f1: float
    calibration_error: float
    macro_precision: float
    macro_recall: float
    f1_of_means: float
    micro_precision: float
    micro_recall: float
    example_precision: float
    example_recall: float
    ranking_loss: float
    coverage_error: float
    label_ranking_average_precision: float
    one_error: float
    precision_at_k: float | None = None
    recall_at_k: float | None = None
    f1_at_k: float | None = None
    labels_found_at_k: int | None = None
    micro_precision_at_k: float | None = None
    micro_recall_at_k: float | None = None
    micro_f1_at_k: float | None = None
    set_calibration_error: float | None = None
    cost: float | None = None
    expected_cost: float | None = None
    open_labels: float | None = None


COST_MEASURES = ("cost", "expected_cost", "open_labels")
LOWER_IS_BETTER = frozenset(
    {
        "nll",
        "hamming",
        "wrong_per_image",
        "calibration_error",
        "set_calibration_error",
        "ranking_loss",
        "coverage_error",
        "one_error",
        *COST_MEASURES,
    }
)
MAIN_MEASURES = frozenset(
    {
        "nll",
        "hamming",
        "wrong_per_image",
        "subset_accuracy",
        "chosen_accuracy",
        "example_f1",
        "example_jaccard",
        "mean_average_precision",
        "micro_f1",
        "macro_f1",
        "calibration_error",
        "precision_at_k",
        "recall_at_k",
        "f1_at_k",
        "labels_found_at_k",
        *COST_MEASURES,
    }
)
_LOWER_IN_RESAMPLES = frozenset(
    {
        "macro_precision",
        "macro_recall",
        "f1_of_means",
        "precision_at_k",
        "recall_at_k",
        "f1_at_k",
        "labels_found_at_k",
    }
)
# symbols in papers on multi-label images and on image annotation
SYMBOLS = {
    "mean_average_precision": "mAP",
    "calibration_error": "ECE",
    "micro_f1": "OF1",
    "macro_precision": "CP",
    "macro_recall": "CR",
    "f1_of_means": "CF1",
    "micro_precision": "OP",
    "micro_recall": "OR",
    "example_precision": "EP",
    "example_recall": "ER",
    "example_f1": "EF1",
    "label_ranking_average_precision": "LRAP",
    "precision_at_k": "CP@k",
    "recall_at_k": "CR@k",
    "f1_at_k": "CF1@k",
    "labels_found_at_k": "N+",
    "micro_precision_at_k": "OP@k",
    "micro_recall_at_k": "OR@k",
    "micro_f1_at_k": "OF1@k",
}


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
            hamming=_share(float(w @ self.wrong), float(observed)),
            mean_average_precision=_mean(precisions[present]),
            labels_with_positives=int(present.sum()),
            micro_f1=micro_f1,
            macro_f1=_mean(f1),
            calibration_error=_share(float(np.abs(w @ self.gap).sum()), float(observed)),
            macro_precision=macro_precision,
            macro_recall=macro_recall,
            f1_of_means=f1_of_means,
            micro_precision=micro_precision,
            micro_recall=micro_recall,
            set_calibration_error=None
            if self.set_gap is None
            else _share(float(np.abs(w @ self.set_gap).sum()), float(w.sum())),
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


class Ranking:
    """One label's images in falling order of score; equal scores count as one step."""

    def __init__(self, scores: Floats, targets: NDArray[np.int8]) -> None:
        known = np.flatnonzero(targets >= 0)
        self.order = known[np.argsort(-scores[known], kind="stable")]
        ranked = scores[self.order]
        self.positive = targets[self.order] == 1
        last_of_equals = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
        self.ends = np.flatnonzero(last_of_equals)

    def steps(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the positives down to each step, and the precision there."""
        w = weights[self.order]
        hits = np.cumsum(w * self.positive)[self.ends]
        found = np.cumsum(w)[self.ends]
        return hits, np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)

    def average_precision(self, weights: Floats) -> float:
        """Return the area below the steps, not interpolated; NaN without a positive."""
        hits, precision = self.steps(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        return float(np.diff(hits, prepend=0.0) @ precision / hits[-1])


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


def calibration_bins(marginals: Floats) -> NDArray[np.int64]:
    """Return the bin of each probability.

    Raises:
        ProbabilitiesError: a value is NaN, below 0 or above 1 by more than rounding.
    """
    wrong = ~((marginals >= -_ROUNDING) & (marginals <= 1 + _ROUNDING))
    if wrong.any():
        raise ProbabilitiesError(
            f"marginals: expected probabilities from 0 to 1, got {marginals[wrong][0]:g}"
        )
    marginals = marginals.clip(0, 1)
    return np.minimum((marginals * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _share(part: float, whole: float) -> float:
    """Return the quotient; NaN for a resample without any known label."""
    return part / whole if whole else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def bootstrap_differences(
    ours: Statistics, theirs: Statistics, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return each measure's difference, ours minus theirs; see `bootstrap_from`."""
    return bootstrap_from(theirs, [ours], resamples=resamples, seed=seed)[0]


def bootstrap_from(
    reference: Statistics, models: Sequence[Statistics], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Interval]]:
    """Return of each model every measure's difference from a reference, with a 95 % interval.

    The percentile bootstrap over images, all models on the same resample (Efron and Tibshirani
    1993, chapter 13). It covers the choice of test images, not that of training images.

    A resample lacks a third of the images, and with them all that was found of some rare labels, so
    that means over labels of precision and recall, also at k, are lower in resamples. Theirs
    are moved by a constant, to have the value as their mean.

    Returns:
        For each model, by measure: (value, low, high); without measures at k if not requested.

    Cost: O(resamples N L) for each model; about 10 s for 1,000 resamples of two models, 10,000
    images and 24 labels, and 100 s for 5,000 images and 374 labels.
    """
    requested = reference.measures()
    names = [one.name for one in fields(Measures) if getattr(requested, one.name) is not None]

    def differences(weights: np.ndarray | None) -> list[list[float]]:
        scored = [one.measures(weights) for one in (reference, *models)]
        first, *others = ([getattr(one, name) for name in names] for one in scored)
        return [[a - b for a, b in zip(other, first, strict=True)] for other in others]

    rng = np.random.default_rng(seed)
    num_images = len(reference.nll)
    drawn = []
    for _ in range(resamples):
        counts = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        drawn.append(differences(counts.astype(np.float64)))
    samples = np.array(drawn)
    return [
        _intervals(names, values, samples[:, model])
        for model, values in enumerate(differences(None))
    ]


def _intervals(names: list[str], values: list[float], samples: Floats) -> dict[str, Interval]:
    """Return (value, low, high) of each measure, from its values on resamples (resamples, M)."""
    defined = ~np.isnan(samples).all(0)  # a measure may be undefined on all resamples
    moved = defined & np.array([name in _LOWER_IN_RESAMPLES for name in names])
    samples[:, moved] += np.array(values)[moved] - np.nanmean(samples[:, moved], axis=0)
    low, high = np.full((2, len(names)), np.nan)
    low[defined], high[defined] = np.nanpercentile(samples[:, defined], [2.5, 97.5], axis=0)
    if _COUNT in names:  # whole, as the value is: no constant moves it off 0
        at = names.index(_COUNT)
        low[at], high[at] = np.round((low[at], high[at])) + 0.0  # no -0
    return {name: (values[i], float(low[i]), float(high[i])) for i, name in enumerate(names)}


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision of the shortest ranking that reaches each recall; both (P,)."""

    recall: Floats
    precision: Floats


@dataclass(frozen=True)
class Reliability:
    """Predicted probability and observed frequency in each bin of `Measures.calibration_error`.

    Attributes:
        count: number of predictions in the bin (B,).
        probability: their mean probability, NaN in an empty bin (B,).
        frequency: share of present labels, NaN in an empty bin (B,).
    """

    count: NDArray[np.int64]
    probability: Floats
    frequency: Floats

    @property
    def mean_probability(self) -> float:
        """Over all predictions; NaN if there is none."""
        return self._mean(self.probability)

    @property
    def mean_frequency(self) -> float:
        """Over all predictions; NaN if there is none."""
        return self._mean(self.frequency)

    @property
    def error(self) -> float:
        """The gap of probability and frequency in a bin, mean over predictions; NaN if none."""
        return self._mean(np.abs(self.probability - self.frequency))

    def _mean(self, values: Floats) -> float:
        filled = self.count > 0
        return _share(float(self.count[filled] @ values[filled]), float(self.count.sum()))


def precision_recall(
    scores: Floats, targets: NDArray[np.int8], *, points: int = 100
) -> PrecisionRecall | None:
    """Return the curve at `points` recalls, evenly spaced up to 1; None without a positive.

    No interpolation: precision may rise with recall. Equal scores count as one step, so the
    first recalls can share one step.

    Args:
        scores, targets: of one label (N,) or of several that are ranked together (N, L); unknown
            targets (-1) are left out.
    """
    ranking = Ranking(scores.ravel(), targets.ravel())
    hits, precision = ranking.steps(np.ones(scores.size))
    if not len(hits) or not hits[-1]:
        return None
    wanted = np.arange(1, points + 1) / points * hits[-1]
    places = np.searchsorted(hits, wanted - 1e-9)
    return PrecisionRecall(hits[places] / hits[-1], precision[places])


def reliability(marginals: Floats, targets: NDArray[np.int8]) -> Reliability:
    """Return the observed frequency in each bin of predicted probability; -1 is left out."""
    known = targets >= 0
    bins = calibration_bins(marginals[known])
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        probability, frequency = (
            np.bincount(bins, values, CALIBRATION_BINS) / count
            for values in (marginals[known], (targets[known] == 1).astype(np.float64))
        )
    return Reliability(count, probability, frequency)
