"""Couplings of labels learned from partly answered images, beside unaries that are there."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from mlcrf.labels import UNKNOWN

_OF_COUPLINGS = (0.0, 0.1, 0.3, 1.0)  # prior variances
_FOLDS = 3
_COARSE = {"maxiter": 60, "ftol": 1e-6}
_LARGEST = 500.0  # log-odds whose exp does not overflow


def learn_couplings(
    log_odds: Tensor,
    answers: Tensor,
    base_rate: Tensor,
    edges: Tensor,
    *,
    error_rate: float = 0.0,
) -> Tensor:
    """Return couplings that tell answered labels from each other, float64 (E,).

    Maximises the pseudo-likelihood of the answers with the log-odds

        log_odds_i + sum_j pairwise_ij (y_j - base_rate_j)

    where an unknown y_j is replaced by its probability; and the same with all y_j unknown, so that
    couplings do not repeat what the image says already. They have a Gaussian prior whose variance
    (0 for no couplings) has the lowest loss on folds of images that were left out.

    Args:
        log_odds: by unaries that have not seen the answers (N, L).
        answers: 1, 0 or -1 for unknown (N, L).
        base_rate: mean probability of each label in the archive (L,).
        edges: pairs of labels (E, 2).
        error_rate: share of answers that are wrong, whatever the image; an answer then has at least
            this probability, and none outweighs many others. Not convex unless 0.

    Source: Copas, "Binary regression models for contaminated data" (1988), for the error rate.
    """
    likely = log_odds.sigmoid()
    others = torch.cat([torch.where(answers == UNKNOWN, likely, answers), likely])
    unusual = (others - base_rate).numpy()
    rows, labels = (torch.cat([answers, answers]) != UNKNOWN).nonzero().numpy().T
    images = rows % len(answers)
    sign = 2 * (answers == 1).double().numpy()[images, labels] - 1
    unary, (first, second) = log_odds.numpy()[images, labels], edges.T.numpy()
    count = len(base_rate)
    log_error = math.log(error_rate) if error_rate else -math.inf
    log_sound = math.log1p(-2 * error_rate)

    def loss(pairwise: NDArray[np.float64], part: NDArray[np.bool_]) -> tuple[float, Any]:
        matrix = np.zeros((count, count))
        matrix[first, second] = matrix[second, first] = pairwise
        chosen = part[images]
        at = rows[chosen], labels[chosen]
        logits = (unary[chosen] + (unusual @ matrix)[at]) * sign[chosen]
        log_right = log_sound - np.logaddexp(0, -logits)
        log_given = np.logaddexp(log_error, log_right)
        slope = np.exp(log_right - log_given) / (1 + np.exp(logits.clip(-_LARGEST, _LARGEST)))
        residuals = np.zeros_like(unusual)
        residuals[at] = -slope * sign[chosen]
        by_matrix = residuals.T @ unusual
        gradient = by_matrix[first, second] + by_matrix[second, first]
        return float(-log_given.sum()), gradient

    def fit(variance: float, part: NDArray[np.bool_]) -> NDArray[np.float64]:
        def penalised(pairwise: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value, gradient = loss(pairwise, part)
            return value + (pairwise**2).sum() / 2 / variance, gradient + pairwise / variance

        if not variance:
            return np.zeros(len(edges))
        start = np.zeros(len(edges))
        result = minimize(penalised, start, jac=True, method="L-BFGS-B", options=_COARSE)
        found: NDArray[np.float64] = result.x
        return found

    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(0))
    fold = order.argsort().numpy() % _FOLDS
    left_out = {
        variance: sum(
            loss(fit(variance, fold != number), fold == number)[0] for number in range(_FOLDS)
        )
        for variance in _OF_COUPLINGS
    }
    best = min(left_out, key=left_out.__getitem__)
    return torch.from_numpy(fit(best, np.ones(len(answers), dtype=bool)))


def log_odds_given_others(
    log_odds: Tensor, answers: Tensor, base_rate: Tensor, edges: Tensor, pairwise: Tensor
) -> Tensor:
    """Return the log-odds of `learn_couplings`, which an image's other labels move, (N, L).

    Args:
        log_odds, answers, base_rate, edges: as in `learn_couplings`.
        pairwise: the couplings (E,).
    """
    matrix = log_odds.new_zeros(len(base_rate), len(base_rate))
    first, second = edges.T
    matrix[first, second] = matrix[second, first] = pairwise.to(matrix)
    others = torch.where(answers == UNKNOWN, log_odds.sigmoid(), answers)
    return log_odds + (others - base_rate) @ matrix
