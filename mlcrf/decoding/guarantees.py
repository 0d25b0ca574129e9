"""Thresholds at which calibration images support a precision or recall."""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.choices import PrecisionOf
from mlcrf.errors import SettingsError
from mlcrf.rules import Rules

LEFT_OUT = 1.0  # threshold of a label that is never written
_STARTS = (1, 2, 4)  # see `passed_cuts`; factors of the fewest images
_GRID = np.arange(199, 0, -1) / 200  # thresholds of all labels together, strict to lenient
_BETS = np.arange(1, 9) / 9  # shares of the wealth, see `_is_supported`


@dataclass(frozen=True)
class Guarantee:
    """A precision or a recall that written labels have, with a confidence.

    Attributes:
        precision, recall: the least value; exactly one is given.
        confidence: probability over calibration images that the promise holds.
        of: the precision of each label, or of all written labels of all images together.
        calibration: name and digest of the calibration images; empty as long as there are none.

    Raises:
        SettingsError: values out of range, or none or both of precision and recall.
    """

    precision: float | None = None
    recall: float | None = None
    confidence: float = 0.9
    of: PrecisionOf = PrecisionOf.LABEL
    calibration: str = ""

    def __post_init__(self) -> None:
        if (self.precision is None) == (self.recall is None):
            raise SettingsError("a guarantee: expected either a precision or a recall")
        if self.recall is not None and self.of is PrecisionOf.ALL:
            raise SettingsError("a recall is promised for each label, not for all together")
        for name in ("precision", "recall", "confidence"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise SettingsError(f"{name}: expected a number between 0 and 1, got {value:g}")

    @property
    def level(self) -> float:
        level = self.recall if self.precision is None else self.precision
        assert level is not None
        return level

    @property
    def measure(self) -> str:
        return "recall" if self.precision is None else "precision"

    def __str__(self) -> str:
        """The parts of a signature."""
        of = f",of:{self.of}" if self.precision is not None else ""
        calibration = f",calibration:{self.calibration}" if self.calibration else ""
        return f"{self.measure}:{self.level:g},confidence:{self.confidence:g}{of}{calibration}"


def scores_within_rules(marginals: Tensor, rules: Rules) -> Tensor:
    """Return scores (N, L) such that every set of labels above one threshold obeys the rules.

    A label that is not among the allowed number of highest marginals of a limited group gets 0, and
    no label more than those that it implies. An image's scores depend on its marginals only. What
    rules ask to be present is not asked for here.
    """
    scores = marginals.double().clone()
    for limit in rules.at_most.limits:
        group = list(limit.labels)
        ranked = scores[:, group].argsort(dim=-1, descending=True, stable=True)
        beyond = ranked[:, limit.most :]
        scores[:, group] = scores[:, group].scatter(-1, beyond, 0.0)
    capped = scores.clone()
    for label, above in rules.closure:
        scores[:, label] = torch.minimum(scores[:, label], capped[:, above])
    return scores


def label_thresholds(
    guarantee: Guarantee, scores: Tensor, targets: Tensor, rules: Rules = Rules()
) -> tuple[float, ...]:
    """Return one threshold per label, `LEFT_OUT` where the guarantee is not supported.

    A label is written where its score is above its threshold, and so only where the labels that it
    implies are written. A label that implies one that is left out is left out, too.

    Args:
        scores: see `scores_within_rules`.
        targets: 1, 0, or -1 for unknown, which is left out (N, L).
    """
    values = scores.cpu().numpy()
    truth = targets.cpu().numpy()
    by_label = [
        _label_cuts(guarantee, column[known >= 0], known[known >= 0] == 1)
        for column, known in zip(values.T, truth.T, strict=True)
    ]
    if guarantee.precision is None:
        return _with_lenient_parents([min(cuts, default=LEFT_OUT) for cuts in by_label], rules)
    chosen = [LEFT_OUT] * len(by_label)
    parents_first = np.argsort(-rules.heights(len(by_label)), kind="stable")
    for label in parents_first.tolist():
        least = max((chosen[parent] for parent in rules.parents.get(label, ())), default=0.0)
        chosen[label] = min((cut for cut in by_label[label] if cut >= least), default=LEFT_OUT)
    return tuple(chosen)


def pooled_threshold(
    guarantee: Guarantee, scores: Tensor, targets: Tensor
) -> tuple[float, int | None]:
    """Return the lowest supported threshold of all labels, and the largest number of labels.

    The number is the largest that a calibration image has above the threshold. The promise is for
    decisions with this limit, which bounds what a single image can lose. `LEFT_OUT` and None if no
    threshold is supported.

    Tests the thresholds 0.995, 0.99, ..., 0.005 from strict to lenient as far as all are supported,
    beginning where enough images have a label; see `_is_supported`.
    """
    level = guarantee.level
    values, truth = scores.cpu().numpy(), targets.cpu().numpy()
    known = truth >= 0
    found: tuple[float, int | None] = (LEFT_OUT, None)
    begun = False
    for threshold in _GRID.tolist():
        written = values > threshold
        most = int(written.sum(1).max(initial=0))
        counted = written & known
        numbers = counted.sum(1)
        right = (counted & (truth == 1)).sum(1)
        # what each image gains if precision is as promised: at least 0 in the mean
        gains = right - level * numbers
        if not begun:
            perfect = numbers - level * numbers
            begun = most > 0 and _is_supported(perfect, level * most, guarantee.confidence)
            if not begun:
                continue
        if not _is_supported(gains, level * most, guarantee.confidence):
            break
        found = threshold, most
    return found


def passed_cuts(
    scores: NDArray[np.float64], is_right: NDArray[np.bool_], level: float, confidence: float
) -> NDArray[np.float64]:
    """Return all thresholds above which a precision is supported, all at once, strict to lenient.

    The hypothesis that the precision above a threshold is below `level` is tested by the exact
    binomial probability of as many right ones, from strict thresholds to lenient ones, until a test
    fails (fixed-sequence testing). The thresholds are scores, the order is given by the scores
    alone. The sequence begins at the fewest images that can pass; and, because one early error ends
    it, again at twice and four times as many; the three share the error probability.

    Valid if the precision does not rise as the threshold falls.

    Args:
        scores, is_right: of the images whose label is known (N,).

    Source: Angelopoulos, Bates, Candes, Jordan and Lei (2021), Learn then Test, section 3;
    Clopper and Pearson (1934) for the binomial probability.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = np.append(scores[order], 0.0)
    taken = np.arange(1, len(scores) + 1)
    hits = np.cumsum(is_right[order])
    error = (1 - confidence) / len(_STARTS)
    chance = np.where(hits > 0, scipy.special.bdtrc(hits - 1, taken, level), 1.0)
    is_cut = ranked[:-1] > ranked[1:]  # equal scores are not separated
    cuts, passes = ranked[1:][is_cut], chance[is_cut] <= error
    fewest = np.log(error) / np.log(level)
    supported = np.zeros(len(cuts), dtype=bool)
    for factor in _STARTS:
        start = int(np.searchsorted(taken[is_cut], factor * fewest))
        fails = np.flatnonzero(~passes[start:])
        supported[start : start + fails[0] if len(fails) else len(cuts)] = True
    return cuts[supported]


def _label_cuts(
    guarantee: Guarantee, scores: NDArray[np.float64], is_present: NDArray[np.bool_]
) -> list[float]:
    """Return the supported thresholds of a label."""
    level, confidence = guarantee.level, guarantee.confidence
    if guarantee.precision is not None:
        found: list[float] = passed_cuts(scores, is_present, level, confidence).tolist()
        return found
    positives = np.sort(scores[is_present])
    # recall falls as the threshold rises, so the largest number of missed positives that passes
    allowed = (
        scipy.special.bdtr(np.arange(len(positives)), len(positives), 1 - level) <= 1 - confidence
    )
    if not allowed.any():
        return []
    first_found = positives[np.flatnonzero(allowed)[-1]]
    return [float(np.nextafter(first_found, 0))] if first_found > 0 else []


def _with_lenient_parents(thresholds: list[float], rules: Rules) -> tuple[float, ...]:
    """Lower each label's threshold to those of the labels that imply it, if all have one."""
    chosen = list(thresholds)
    for label, above in rules.closure:
        if thresholds[above] == LEFT_OUT:
            chosen[label] = LEFT_OUT
    for label, above in rules.closure:
        if LEFT_OUT not in (chosen[label], chosen[above]):
            chosen[above] = min(chosen[above], chosen[label])
    return tuple(chosen)


def _is_supported(gains: NDArray[np.float64], loss: float, confidence: float) -> bool:
    """Test that the mean gain is above 0, where no gain is below -loss.

    Labels of one image depend on each other, so images are the independent units. If the mean is at
    most 0, a gambler who puts a fixed share of the wealth on every gain has no expected growth, and
    so a final wealth of 1 / (1 - confidence) with a probability of at most 1 - confidence. The
    wealth is divided between several shares.

    Source: Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting.
    """
    different, counts = np.unique(gains, return_counts=True)  # few, so that this is fast
    wealth = np.log1p(_BETS[:, None] / loss * different) @ counts
    mean = np.logaddexp.reduce(wealth) - np.log(len(_BETS))
    return bool(mean >= -np.log(1 - confidence))
