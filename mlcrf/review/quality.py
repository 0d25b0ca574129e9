"""Estimates of how well a tag is known, from answers that were not chosen by chance.

People answer about photos that a list shows them: uncertain ones, likely ones. Among photos with
the same log-odds the choice says little about the tag, so the answers give the probability of the
tag as a function of its log-odds s, and this function, applied to all photos without an answer,
corrects for the choice. It is

    logit P(tag | s) = a + b_- s for s < 0, a + b_+ s for s > 0

where s of an answered photo comes from a fit without its answer; in both, s counts what is answered
about the photo's other tags, since the tags that would be written follow from it, too.

The choice says something nevertheless: photos are asked about where the learner knew least, or
where it was surest. So an answered photo's log-odds are those of the function plus d_- or d_+, by
the sign of s, which no number of answers makes known. Who mostly confirms likely photos has more
answers of yes than of no, and then the learner expects the tag far too often. With r = log(yes /
no), by the numbers of answers, r' = r limited to 0 to 2, and standard deviations behind +-, the
prior is

    a = -0.7 - 0.6 r - 0.35 r' +- 1.4 exp(0.25 r')
    log b_- = 0.3 - 0.4 r' +- 0.7, log b_+ = 0.45 +- 1
    d_- = 0.25 +- 0.5 exp(0.4 r'), d_+ = 0.05 + 0.25 r' +- 0.5 exp(0.6 r')

where a and log b_- have a correlation of 0.45. The learner does not know how rare a tag is, so it
expects as many among the other photos as among the answers; hence the second term of a.

Estimates and intervals are over the posterior of these five numbers and over the photos' own
chance. Intervals are central 96 % of that, reported as 90 %: the form of the function is not exact.
The prior and this margin come from simulated answers about im1 to im10000 of MIRFLICKR;
`experiments/teach` says how often intervals hold the truth on others.

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

_FEWEST = 5  # answers of yes, and of no
_FUNCTIONS, _DRAWS = 20_000, 2000
_BINS, _LARGEST = 150, 15.0  # of log-odds
_CONFIDENCE = 0.96
_LARGEST_EXCESS = 2.0  # of answers of yes over those of no, as a logarithm


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
    """Return estimates for one tag; None with fewer than five answers of yes, or of no.

    Args:
        log_odds: of all photos, given the answers about their other tags; of an answered one by a
            fit without its answer (N,).
        answers: 1, 0 or -1 for unknown (N,).
        tagged: which photos would be tagged, bool (N,).

    Cost: that of a logarithm for 20,000 functions and each of at most 150 bins with an answer.
    Deterministic.
    """
    is_open = answers == UNKNOWN
    yes, no = (_histogram(log_odds[answers == answer]) for answer in (1, 0))
    if min(yes.sum(), no.sum()) < _FEWEST:
        return None
    middle = (torch.arange(_BINS) + 0.5) * 2 * _LARGEST / _BINS - _LARGEST
    asked = yes + no > 0
    level, below, above, shift_below, shift_above = _draw_prior(float((yes.sum() / no.sum()).log()))

    def logits(drawn: Tensor, at: Tensor) -> Tensor:
        """Return the log-odds of drawn functions in some bins."""
        slope = torch.where(at < 0, below[drawn, None], above[drawn, None])
        found: Tensor = level[drawn, None] + slope * at
        return found

    every = torch.arange(_FUNCTIONS)
    answered = logits(every, middle[asked])
    answered += torch.where(middle[asked] < 0, shift_below[:, None], shift_above[:, None])
    loss = F.softplus(-answered) @ (yes + no)[asked] + answered @ no[asked]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial((-loss).softmax(0), _DRAWS, True, generator=generator)
    p = logits(drawn, middle).sigmoid()

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


def _draw_prior(log_ratio: float) -> Tensor:
    """Return a, b_-, b_+, d_- and d_+ drawn from the prior (5, F).

    Args:
        log_ratio: log(yes / no), of the numbers of answers.
    """
    first, second, third, fourth, fifth = _normal()
    excess = torch.tensor(log_ratio).clamp(0, _LARGEST_EXCESS)
    return torch.stack(
        [
            1.4 * (0.25 * excess).exp() * first - 0.7 - 0.6 * log_ratio - 0.35 * excess,
            (0.3 - 0.4 * excess + 0.7 * (0.45 * first + 0.89 * second)).exp(),
            (0.45 + third).exp(),
            0.25 + 0.5 * (0.4 * excess).exp() * fourth,
            0.05 + 0.25 * excess + 0.5 * (0.6 * excess).exp() * fifth,
        ]
    )


@cache
def _normal() -> Tensor:
    return torch.randn(5, _FUNCTIONS, generator=torch.Generator().manual_seed(0))


def _histogram(log_odds: Tensor) -> Tensor:
    values = log_odds.float().clamp(-_LARGEST, _LARGEST)
    return torch.histc(values, _BINS, -_LARGEST, _LARGEST)
