"""Statistics of images that show a drift: of single labels, of pairs, and of whole label sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy
from numpy.typing import NDArray

from mlcrf.drift.permutation import Floats
from mlcrf.labels import UNKNOWN

MOST_PAIRS = 500  # pairs of labels that are compared, those that are likely most often
_LEAST = 1e-6  # of a probability, so that its logarithm is finite


class Score(StrEnum):
    """A family of statistics that are tested together."""

    LABELS = "labels"
    PAIRS = "pairs"
    JOINT = "joint"


class Quantity(StrEnum):
    """The quantity whose mean over images is compared.

    With p the marginals of an image, y its targets, and bars for means over all images of both
    samples; those with y need targets.
    """

    PROBABILITY = "probability"  # p_i
    UNCERTAINTY = "uncertainty"  # entropy of p_i, in nats
    FREQUENCY = "frequency"  # y_i
    EXCESS = "frequency beyond probability"  # y_i - p_i
    LIKELY_TOGETHER = "covariance of probabilities"  # (p_i - mean p_i) (p_j - mean p_j)
    TOGETHER = "covariance"  # (y_i - mean y_i) (y_j - mean y_j)
    EXCESS_TOGETHER = "covariance beyond probabilities"  # (y_i - p_i) (y_j - p_j)
    LIKELIEST = "surprise of the most probable set"  # -log p(most probable set | x)
    SURPRISE = "surprise"  # -log p(y | x)
    GAIN = "gain over single labels"  # log p(y | x) - sum_i log p(y_i | x)


@dataclass(frozen=True)
class Sample:
    """The answers of a model on N images, and what is true.

    Attributes:
        marginals: (N, L).
        targets: 1, 0, or -1 for unknown (N, L).
        surprise: -log p(y | x) in nats, NaN where a target is unknown (N,); None if not known.
        likeliest: -log p of the most probable label set in nats (N,); None if not known.
    """

    marginals: Floats
    targets: NDArray[np.int8]
    surprise: Floats | None = None
    likeliest: Floats | None = None

    def __len__(self) -> int:
        return len(self.marginals)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one quantity, of two samples one after the other.

    Attributes:
        labels: columns of the labels of each statistic, K tuples of none, one or two.
        values: (M + N, K), NaN where unknown.
    """

    quantity: Quantity
    labels: Sequence[tuple[int, ...]]
    values: Floats


def statistics_of(
    reference: Sample, new: Sample, *, with_targets: bool
) -> dict[Score, list[Statistics]]:
    """Return the statistics by score; none of whole label sets if their surprise is not known.

    Means over both samples do not depend on how images are divided between them, so that the
    products that use them keep images exchangeable.
    """
    p = np.concatenate([reference.marginals, new.marginals])
    y = np.concatenate([reference.targets, new.targets])
    truth = np.where(y == UNKNOWN, np.nan, y.astype(np.float64))
    each = [(label,) for label in range(p.shape[1])]
    entropy = scipy.special.entr(p) + scipy.special.entr(1 - p)
    pairs = _likely_pairs(p)
    both = [(int(i), int(j)) for i, j in pairs]
    found = {
        Score.LABELS: [
            Statistics(Quantity.PROBABILITY, each, p),
            Statistics(Quantity.UNCERTAINTY, each, entropy),
        ],
        Score.PAIRS: [Statistics(Quantity.LIKELY_TOGETHER, both, _products(p - p.mean(0), pairs))],
        Score.JOINT: list(_of_sets(reference, new, truth, p, with_targets=with_targets)),
    }
    if with_targets:
        with np.errstate(invalid="ignore"):
            known = ~np.isnan(truth)
            mean = np.where(known, truth, 0).sum(0) / np.maximum(known.sum(0), 1)
        found[Score.LABELS] += [
            Statistics(Quantity.FREQUENCY, each, truth),
            Statistics(Quantity.EXCESS, each, truth - p),
        ]
        found[Score.PAIRS] += [
            Statistics(Quantity.TOGETHER, both, _products(truth - mean, pairs)),
            Statistics(Quantity.EXCESS_TOGETHER, both, _products(truth - p, pairs)),
        ]
    return {score: one for score, one in found.items() if one and one[0].values.shape[1]}


def _of_sets(
    reference: Sample, new: Sample, truth: Floats, p: Floats, *, with_targets: bool
) -> Iterator[Statistics]:
    """Yield the statistics of whole label sets that both samples have."""
    if reference.likeliest is not None and new.likeliest is not None:
        likeliest = np.concatenate([reference.likeliest, new.likeliest])
        yield Statistics(Quantity.LIKELIEST, [()], likeliest[:, None])
    if with_targets and reference.surprise is not None and new.surprise is not None:
        surprise = np.concatenate([reference.surprise, new.surprise])
        told = np.where(truth == 1, p, 1 - p).clip(_LEAST)
        alone = np.where(np.isnan(truth), np.nan, -np.log(told)).sum(1)
        yield Statistics(Quantity.SURPRISE, [()], surprise[:, None])
        yield Statistics(Quantity.GAIN, [()], (alone - surprise)[:, None])


def _likely_pairs(p: Floats) -> NDArray[np.int64]:
    """Return the pairs i < j with the highest sum of p_i p_j over images, in order (K, 2)."""
    first, second = np.triu_indices(p.shape[1], 1)
    pairs = np.stack([first, second], 1)
    if len(pairs) <= MOST_PAIRS:
        return pairs
    together = (p.T @ p)[first, second]
    return pairs[np.sort(np.argsort(-together, kind="stable")[:MOST_PAIRS])]


def _products(values: Floats, pairs: NDArray[np.int64]) -> Floats:
    products: Floats = values[:, pairs[:, 0]] * values[:, pairs[:, 1]]
    return products
