"""Label sets of high score, found by local search, and what they say of an answer."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Fields, Potentials
from mlcrf.inference.posterior import Posterior

BELOW_A_SCORE = "have a log Z below the score of a label set"  # for `advise`
OTHER_END = "end elsewhere from a second start, with a log Z as high"  # for `advise`
_MAX_SHIFT = 0.01  # of a marginal, if both ends were mixed
ROUNDED_AWAY = "have couplings of both signs so large that the rest of their sums is rounded away"
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}  # relative error of scores and log Z
_MOST_ROUNDED = 0.01  # nats of log-odds
_STANDARD_ERRORS = 3  # by which an estimate may be below a score


class Modes(NamedTuple):
    """Local maxima of the score of each image.

    Attributes:
        nearest: where the search from the given label vector ends (N, L).
        other: the best of the ends that differ from it; `nearest` where all are the same (N, L).
        best_score: the highest score of any of them (N,).
    """

    nearest: Tensor
    other: Tensor
    best_score: Tensor


@torch.no_grad()
def search_modes(potentials: Potentials, states: Tensor, known: Tensor) -> Modes:
    """Search from label vectors (N, L), from their opposite, from no label and from all labels.

    Cost: four times that of `iterated_conditional_modes`.
    """
    starts = torch.cat([states, 1 - states, torch.zeros_like(states), torch.ones_like(states)])
    again = torch.arange(len(states), device=states.device).repeat(4)
    found = iterated_conditional_modes(potentials.rows(again), starts, known[again])
    ends = found.reshape(4, *states.shape)
    scores = torch.stack([potentials.log_score(end) for end in ends])
    nearest = ends[0]
    differs = (ends != nearest).any(-1)
    chosen = scores.masked_fill(~differs, -torch.inf).argmax(0)  # 0 if none differs
    other = ends[chosen, torch.arange(len(nearest), device=nearest.device)]
    return Modes(nearest, other, scores.amax(0))


def is_below(log_partition: Tensor, score: Tensor, error: Tensor | None = None) -> Tensor:
    """Return whether an estimate of log Z is certainly wrong, since Z is a sum of exp(score) (N,).

    NaN is wrong too.

    Args:
        score: of any label vector, in the states that log Z sums over, in the type of the
            potentials, which says how much may be rounding (N,).
        error: standard error of the estimate (N,); three of them are allowed for.
    """
    allowed = _ROUNDING[score.dtype] * (1 + score.abs().double())
    if error is not None:
        allowed = allowed + _STANDARD_ERRORS * error
    return ~(log_partition.double() + allowed >= score.double())


@torch.no_grad()
def is_rounded_away(potentials: Potentials, states: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whether log-odds summed in a type are off by 0.01 in label vectors (S, N, L), (N,).

    Large couplings of both signs cancel in a sum, and what is left, such as a unary, is rounded
    to their precision: to 64 in float32 where they are 1e9.

    Cost: that of `Potentials.conditional_logits`, twice.
    """
    coupled = potentials.as_couplings()
    positive, negative = (
        Potentials((sign * coupled.unary).relu(), coupled.edges, (sign * coupled.pairwise).relu())
        for sign in (1, -1)
    )
    cancelling = torch.minimum(
        positive.conditional_logits(states), negative.conditional_logits(states)
    )
    return (torch.finfo(dtype).eps * cancelling > _MOST_ROUNDED).any(-1).any(0)


@torch.no_grad()
def check_fixed_point(
    first: Posterior,
    potentials: Potentials,
    known: Tensor,
    infer: Callable[[Potentials, Tensor, Tensor], Posterior],
) -> dict[str, Tensor]:
    """Look for signs that a fixed point is not the answer; return the images with each (N,).

    Where local search finds another mode than the one nearest to the first end, the method is run
    again from there. If both ends were parts of one distribution, with the weights exp(log Z),
    the marginals would move from the first end by

        sigmoid(log Z of the second - log Z of the first) max_i |difference of marginal i|

    which may be 0.01. Two ends that agree are no proof, and nor is a single mode.

    Args:
        first: where the method ended.
        infer: the method on some of the images, given their potentials, known labels, and label
            vectors to start from.

    Cost: of `search_modes`, and another run for the images with several modes.
    """
    modes = search_modes(potentials, (first.marginals > 0.5).long(), known)
    elsewhere = (modes.other != modes.nearest).any(-1)
    if bool(elsewhere.any()):
        rows = elsewhere.nonzero()[:, 0]
        second = infer(potentials.rows(rows), known[rows], modes.other[rows])
        share = (second.log_partition - first.log_partition[rows]).sigmoid()
        apart = (second.marginals - first.marginals[rows]).abs().amax(-1)
        elsewhere[rows] = share * apart > _MAX_SHIFT
    dtype = potentials.unary.dtype
    return {
        BELOW_A_SCORE: is_below(first.log_partition, modes.best_score),
        OTHER_END: elsewhere,
        ROUNDED_AWAY: is_rounded_away(potentials, modes.nearest[None], dtype),
    }


@torch.no_grad()
def iterated_conditional_modes(
    potentials: Potentials, states: Tensor, known: Tensor, *, max_sweeps: int = 100
) -> Tensor:
    """Improve label vectors until no single change raises their score.

    Iterated conditional modes (Besag 1986): each label in turn takes its likelier value given
    the others. The score never falls. Known labels keep their value.

    Args:
        states: where to start (N, L).
        known: 1, 0 or -1 for unknown (N, L).

    Returns:
        Local maxima, int64 (N, L), not necessarily global.

    Cost: O(N L) for each label of a sweep that changes in any image; other labels are skipped.
    """
    fields = Fields(potentials)
    free = known == UNKNOWN
    y = torch.where(free, states, known).to(potentials.unary.dtype)
    log_odds = fields.all(y)
    for _ in range(max_sweeps):
        label, settled = 0, True
        while True:
            wrong = (((log_odds > 0).to(y.dtype) != y) & free)[:, label:].any(0).nonzero()
            if not len(wrong):
                break
            label, settled = label + int(wrong[0]), False
            likelier = (log_odds[:, label] > 0).to(y.dtype)
            change = torch.where(free[:, label], likelier - y[:, label], 0.0)
            y[:, label] += change
            if fields.limits:
                log_odds = fields.all(y)
            else:
                fields.move(log_odds, label, change)
            label += 1
        if settled:
            break
    return y.long()
