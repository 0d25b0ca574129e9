"""Bayesian logistic regression of one label by Laplace's method, from few examples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

_MOST_STEPS = 50
_TOLERANCE = 1e-6  # largest change of a log-odds by the last step
_MOST_HALVINGS = 20


@dataclass(frozen=True)
class LaplaceFit:
    """A fitted label.

    Attributes:
        weights: posterior mode (D,).
        log_odds: of the examples, at the mode (N,).
        left_out: log-odds of each example by a fit without it, in closed form (N,).
    """

    weights: Tensor
    log_odds: Tensor
    left_out: Tensor


def fit_laplace(
    inputs: Tensor, targets: Tensor, *, offset: Tensor | None = None, counts: Tensor | None = None
) -> LaplaceFit:
    """Return the posterior mode of the weights w, which have the prior N(0, I).

        logit P(y = 1 | x) = offset + w x

    Newton's method in min(N, D) dimensions: the mode is in the span of the examples. An example is
    left out by taking its term out of the Gaussian approximation: with the gradient g and curvature
    c of its term, and v the variance of its log-odds f under the posterior,

        left out = f - g v / (1 - c v)

    Args:
        inputs: x, float64 (N, D).
        targets: 1 and 0, or a probability (N,).
        offset: prior mean of the log-odds (N,); 0 if None.
        counts: how often each example counts (N,); once if None.

    Cost: O(N min(N, D)^2) per step, about six steps. Deterministic.

    Sources: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), section 3.4;
    Opper and Winther, "Gaussian processes for classification" (2000), for what is left out.
    """
    count, size = inputs.shape
    offset = inputs.new_zeros(count) if offset is None else offset
    counts = torch.ones_like(offset) if counts is None else counts
    basis = None
    if count < size:
        basis, triangle = torch.linalg.qr(inputs.T)
        inputs = triangle.T

    def loss(weights: Tensor, log_odds: Tensor) -> float:
        each = F.binary_cross_entropy_with_logits(log_odds, targets, reduction="none")
        return float((counts * each).sum() + weights.square().sum() / 2)

    weights = inputs.new_zeros(inputs.shape[1])
    log_odds, factor = offset, _curvature_factor(inputs, offset, counts)
    value = loss(weights, log_odds)
    for _ in range(_MOST_STEPS):
        gradient = inputs.T @ (counts * (log_odds.sigmoid() - targets)) + weights
        step = torch.cholesky_solve(gradient[:, None], factor).squeeze(1)
        for _ in range(_MOST_HALVINGS):
            moved = weights - step
            after = offset + inputs @ moved
            if loss(moved, after) <= value:
                break
            step = step / 2
        change = float((after - log_odds).abs().amax())
        weights, log_odds, value = moved, after, loss(moved, after)
        factor = _curvature_factor(inputs, log_odds, counts)
        if change < _TOLERANCE:
            break
    p = log_odds.sigmoid()
    half = torch.linalg.solve_triangular(factor, inputs.T, upper=False)
    variance = half.square().sum(0)
    curvature = counts * p * (1 - p)
    left_out = log_odds - counts * (targets - p) * variance / (1 - curvature * variance)
    return LaplaceFit(weights if basis is None else basis @ weights, log_odds, left_out)


def _curvature_factor(inputs: Tensor, log_odds: Tensor, counts: Tensor) -> Tensor:
    """Return the Cholesky factor of the Hessian of the negative log-posterior (D, D)."""
    p = log_odds.sigmoid()
    hessian = inputs.T @ (inputs * (counts * p * (1 - p))[:, None])
    factor: Tensor = torch.linalg.cholesky(hessian + torch.eye(len(hessian), dtype=inputs.dtype))
    return factor
