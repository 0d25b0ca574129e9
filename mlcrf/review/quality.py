"""Estimates of how well a tag is known, from answers that were not chosen by chance.

People answer about photos that a list shows them: uncertain ones, likely ones. Among photos with
the same log-odds the choice says nothing about the tag, so the answers give the probability of the
tag as a function of its log-odds, and this function, applied to all photos without an answer,
corrects for the choice. It is

    logit P(tag | s) = a + b_- s for s < 0, a + b_+ s for s > 0

where s of an answered photo comes from a fit without its answer, and the prior is a ~ N(0, 1.5^2),
log b_-, log b_+ ~ N(0.5, 0.5^2 + 0.3^2) with a common part. Estimates and intervals are over the
posterior of the function and over the photos' own chance. Intervals are central 95 % of that,
reported as 90 %: the form of the function is not exact. The prior and this margin come from
simulated answers about im1 to im10000 of MIRFLICKR. On others (`experiments/teach`) intervals of
the right ones hold in 75 to 87 % of the estimates, those of the missed ones in 67 to 87 %.

Wrong where people choose photos by what the features do not show, such as the name of a folder, and
wide where nobody answered about photos far from the least certain ones.

Source: Platt, "Probabilistic outputs for support vector machines" (1999), for the function.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.labels import UNKNOWN

_FEWEST = 3  # answers of yes, and of no
_INTERCEPT, _SLOPE, _SLOPE_OF_SIDE, _LOG_SLOPE = 1.5, 0.5, 0.3, 0.5
_FUNCTIONS, _DRAWS = 8000, 2000
_BINS, _LARGEST = 200, 20.0  # of log-odds
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number of photos, with an interval."""

    mean: float
    low: int
    high: int

    def __str__(self) -> str:
        return f"{round(self.mean)} ({self.low} to {self.high})"


@dataclass(frozen=True)
class Quality:
    """Estimates of a tag's errors in the photos without an answer.

    Attributes:
        tagged: number of photos that would be tagged.
        right: how many of these have the tag.
        missed: how many of the others have it.
    """

    tagged: int
    right: Estimate
    missed: Estimate

    def __str__(self) -> str:
        missed = f"about {self.missed} more are missed"
        if not self.tagged:
            return f"no photo would be tagged; {missed}"
        return f"of {self.tagged} that would be tagged, about {self.right} are right; {missed}"


def estimate_quality(log_odds: Tensor, answers: Tensor, tagged: Tensor) -> Quality | None:
    """Return estimates for one tag; None with fewer than three answers of yes, or of no.

    Args:
        log_odds: of all photos; of an answered one by a fit without its answer (N,).
        answers: 1, 0 or -1 for unknown (N,).
        tagged: which photos would be tagged, bool (N,).

    Cost: two products of a 8,000 x 200 matrix with a vector. Deterministic.
    """
    yes, no, is_open = answers == 1, answers == 0, answers == UNKNOWN
    if min(int(yes.sum()), int(no.sum())) < _FEWEST:
        return None
    logits, loss_of_yes, loss_of_no = _functions()
    loss = loss_of_yes @ _histogram(log_odds[yes]) + loss_of_no @ _histogram(log_odds[no])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial((-loss).softmax(0), _DRAWS, True, generator=generator)
    p = logits[drawn].sigmoid()

    def count(photos: Tensor) -> Estimate:
        """Draw how many of some photos have the tag: such a sum is about normal."""
        histogram = _histogram(log_odds[photos])
        mean, variance = p @ histogram, (p * (1 - p)) @ histogram
        noise = torch.randn(_DRAWS, generator=generator)
        draws = (mean + variance.sqrt() * noise).clamp(0, float(photos.sum()))
        tail = (1 - _CONFIDENCE) / 2
        low, high = draws.quantile(torch.tensor([tail, 1 - tail])).tolist()
        return Estimate(float(mean.mean()), round(low), round(high))

    right, others = tagged & is_open, ~tagged & is_open
    return Quality(int(right.sum()), count(right), count(others))


@cache
def _functions() -> tuple[Tensor, Tensor, Tensor]:
    """Return log-odds in the middle of each bin by functions drawn from the prior.

    And the losses of an answer of yes, and of no.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(_FUNCTIONS, 3, generator=generator)
    common = _LOG_SLOPE + _SLOPE * normal[:, 1]
    side = _SLOPE_OF_SIDE * normal[:, 2]
    below, above = (common + side).exp(), (common - side).exp()
    middle = (torch.arange(_BINS) + 0.5) * 2 * _LARGEST / _BINS - _LARGEST
    slope = torch.where(middle < 0, below[:, None], above[:, None])
    logits = _INTERCEPT * normal[:, :1] + slope * middle
    return logits, F.softplus(-logits), F.softplus(logits)


def _histogram(log_odds: Tensor) -> Tensor:
    values = log_odds.float().clamp(-_LARGEST, _LARGEST)
    return torch.histc(values, _BINS, -_LARGEST, _LARGEST)
