"""Thresholds of highest F1 on labelled data, by trying all distinct thresholds."""

import torch
from torch import Tensor

from mlcrf.errors import ProbabilitiesError

_EQUAL = 1e-10  # values of F1 that differ by at most this are a tie
_DEFAULT = 0.5


def tune_threshold(marginals: Tensor, targets: Tensor) -> float:
    """Return the one threshold of all labels that maximises micro F1 of `marginals > threshold`.

    Tries one value between each two neighbouring marginals: their middle, or 0.5 if that lies
    between them. Ties go to the threshold nearest to 0.5, which is also returned if no label is
    present or known.

    Args:
        marginals: P(y_i = 1) (N, L).
        targets: 1, 0, or -1 for unknown, which is left out (N, L).

    Cost: O(N L log(N L)).
    """
    _check(marginals, targets)
    (threshold,) = tune_label_thresholds(marginals.reshape(-1, 1), targets.reshape(-1, 1))
    return threshold


def tune_label_thresholds(marginals: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Return one threshold per label that together maximise macro F1 of `marginals > thresholds`.

    Values and ties as in `tune_threshold`; a label with no positive keeps 0.5.

    Cost: O(N L log N).
    """
    _check(marginals, targets)
    cuts = _Cuts(marginals, targets)
    tuned = torch.where(cuts.positives > 0, cuts.best_thresholds(), _DEFAULT)
    return tuple(tuned.tolist())


class _Cuts:
    """Columns of M marginals, each cut at every place: cut r takes the r highest known marginals.

    Attributes:
        thresholds: a value that makes each cut (M + 1, K).
        possible: whether a threshold makes the cut; equal marginals cannot be separated, and a
            marginal of 0 cannot be taken (M + 1, K).
        hits: true positives of each cut (M + 1, K); taken: r (M + 1, 1).
        positives: by column (K,).
    """

    def __init__(self, marginals: Tensor, targets: Tensor) -> None:
        known = targets >= 0
        scores = torch.where(known, marginals.double(), -1.0)
        ranked, order = scores.sort(stable=True, dim=0, descending=True)
        edge = ranked.new_zeros(1, ranked.shape[1])
        above, below = torch.cat([edge + 1, ranked]), torch.cat([ranked.clamp(min=0), edge])
        middle = (above + below) / 2
        middle = torch.where(
            middle < above, middle, below
        )  # rounding must not exclude a taken marginal
        has_default = (below <= _DEFAULT) & (above > _DEFAULT)
        self.thresholds = torch.where(has_default, _DEFAULT, middle)
        self.possible = above > below
        self.possible[0] = True  # 1 takes nothing, not even 1
        truth = (targets == 1).gather(0, order).double()
        self.hits = torch.cat([edge, truth.cumsum(0)])
        self.taken = torch.arange(len(self.hits), device=targets.device).double()[:, None]
        self.positives = self.hits[-1]

    def best_thresholds(self) -> Tensor:
        """Return the threshold of highest F1 of each column, ties to the nearest to 0.5 (K,)."""
        values = self.f1().masked_fill(~self.possible, -torch.inf)
        tie = values >= values.amax(0) - _EQUAL
        distance = (self.thresholds - _DEFAULT).abs().masked_fill(~tie, torch.inf)
        return self.thresholds.gather(0, distance.argmin(0, keepdim=True))[0]

    def f1(self) -> Tensor:
        """Return the F1 of each cut; 0 where a column has no positive (M + 1, K)."""
        return 2 * self.hits / (self.taken + self.positives).clamp(min=1)


def _check(marginals: Tensor, targets: Tensor) -> None:
    if marginals.ndim != 2 or marginals.shape != targets.shape:
        raise ProbabilitiesError(
            f"marginals and targets: expected (N, L) of both, got {tuple(marginals.shape)} and "
            f"{tuple(targets.shape)}"
        )
    wrong = ~((marginals >= 0) & (marginals <= 1))
    if bool(wrong.any()):
        raise ProbabilitiesError(
            f"marginals: expected probabilities from 0 to 1, got {float(marginals[wrong][0]):g}"
        )
