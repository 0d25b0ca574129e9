"""Fit the terms of a CRF by exact gradients: likelihood, single labels, or F1 itself."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor
from torch.nn import functional

from experiments.beyond_pairwise.label_sets import HalfStates, HigherOrderCrf, Sums, Weights
from experiments.beyond_pairwise.unaries import Photos

_BATCH = 1000
_REMAINING = 1e-5  # nats a photo still to be gained where a fit stops
_SAMPLED = 4000  # photos whose label sets are drawn for the curvature

Loss = Callable[[HigherOrderCrf, Weights, Photos], Tensor]


def set_loss(crf: HigherOrderCrf, weights: Weights, photos: Photos) -> Tensor:
    """Return the negative log-probability of whole label sets, summed over photos."""
    return (weights.log_partition() - crf.log_score(photos.odds, photos.targets)).sum()


def label_loss(crf: HigherOrderCrf, weights: Weights, photos: Photos) -> Tensor:
    """Return the cross-entropy of exact marginals, summed over photos and labels."""
    marginals = weights.marginals().clamp(1e-12, 1 - 1e-12)
    return functional.binary_cross_entropy(marginals, photos.targets.double(), reduction="sum")


def f1_loss(crf: HigherOrderCrf, weights: Weights, photos: Photos) -> Tensor:
    """Return one minus the mean F1 of a drawn set with the right one, summed over photos."""
    return (1 - weights.expected_f1(photos.targets)).sum()


@dataclass(frozen=True)
class Terms:
    """Parameters that a fit may change, and the L2 penalty of each."""

    penalties: dict[str, float]
    loss: Loss = set_loss
    most_steps: int = 60


@dataclass(frozen=True)
class Fit:
    """A fitted CRF, and how its fit went.

    Attributes:
        best: the CRF after the step with the least loss on photos held out.
        held_out: that loss at the start and after each step; empty if no photos are held out.
    """

    crf: HigherOrderCrf
    best: HigherOrderCrf
    held_out: list[float]
    gradients: int

    @property
    def best_step(self) -> int:
        """The number of steps with the least loss on photos held out."""
        return int(np.argmin(self.held_out))


def fit_terms(
    start: HigherOrderCrf,
    photos: Photos,
    states: HalfStates,
    terms: Terms,
    held_out: Photos | None = None,
) -> Fit:
    """Minimise mean loss plus penalties by L-BFGS from `start`, which is not changed.

    Stops once half the squared norm of the preconditioned gradient, an estimate of what is still
    to be gained, is below 1e-5.

    Args:
        held_out: photos whose loss is noted after each step.
    """
    crf, best = copy.deepcopy(start), copy.deepcopy(start)
    space = _Space(crf, photos, states, terms.penalties)
    gradients, remaining, seen = 0, np.inf, []

    def evaluate(vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal gradients, remaining
        gradients += 1
        space.assign(vector)
        value = mean_loss(crf, photos, states, terms.loss, with_gradient=True)
        penalty, slope = space.penalised()
        remaining = float(slope @ slope) / 2
        return value + penalty, slope

    def note(intermediate_result: OptimizeResult) -> None:
        if held_out is not None:
            space.assign(intermediate_result.x)
            seen.append(mean_loss(crf, held_out, states, terms.loss))
            if seen[-1] == min(seen):
                best.load_state_dict(crf.state_dict())
        if remaining < _REMAINING:
            raise StopIteration

    if held_out is not None:
        seen.append(mean_loss(crf, held_out, states, terms.loss))
    result = minimize(
        evaluate,
        space.vector(),
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxiter": terms.most_steps, "ftol": 0.0, "gtol": 0.0, "maxcor": 30},
    )
    space.assign(result.x)
    return Fit(crf, best if held_out is not None else crf, seen, gradients)


class _Space:
    """The free parameters as one vector, scaled so that the set loss is about equally curved.

    The curvature in all but the weights of log-odds is the covariance of statistics under the CRF,
    from two label sets drawn for each of some photos.
    """

    def __init__(
        self, crf: HigherOrderCrf, photos: Photos, states: HalfStates, penalties: dict[str, float]
    ) -> None:
        self._named = [(name, getattr(crf, name)) for name in penalties]
        self._penalties = penalties
        weighed = [name for name in penalties if name != "weight"]
        generator = torch.Generator().manual_seed(0)
        few = photos.odds[:_SAMPLED]
        with torch.no_grad():
            drawn = [one.sample(2, generator) for one in Sums(crf, states).batches(few)]
        one, other = (
            torch.cat([crf.statistics(part)[name] for name in weighed], 1)
            for part in torch.cat(drawn, 1)
        )
        curvature = (one - other).T @ (one - other) / (2 * len(few))
        at = torch.cat(
            [
                crf.get_parameter(name)
                .new_full(crf.get_parameter(name).shape, penalties[name])
                .flatten()
                for name in weighed
            ]
        )
        curvature += torch.diag(at + 1e-4)
        self._root = torch.linalg.cholesky(curvature)
        rates = torch.cat(drawn, 1)[0].double().mean(0)
        self._scale = ((rates * (1 - rates) + penalties.get("weight", 0.0) + 1e-4) ** 0.5)[:, None]

    def vector(self) -> NDArray[np.float64]:
        """The parameters."""
        parts = [one.detach().flatten() for name, one in self._named if name != "weight"]
        scaled = self._root.T @ torch.cat(parts)
        weights = [one.detach() * self._scale for name, one in self._named if name == "weight"]
        return torch.cat([scaled, *(one.flatten() for one in weights)]).numpy()

    @torch.no_grad()
    def assign(self, vector: NDArray[np.float64]) -> None:
        """Set the parameters."""
        count = len(self._root)
        scaled, weights = torch.from_numpy(vector).split([count, len(vector) - count])
        values = torch.linalg.solve_triangular(self._root.T, scaled[:, None], upper=True)[:, 0]
        at = 0
        for name, one in self._named:
            if name == "weight":
                one.copy_(weights.view_as(one) / self._scale)
                continue
            one.copy_(values[at : at + one.numel()].view_as(one))
            at += one.numel()

    @torch.no_grad()
    def penalised(self) -> tuple[float, NDArray[np.float64]]:
        """The penalty, and the gradient of loss and penalty by the vector."""
        value, slopes, weights = 0.0, [], []
        for name, one in self._named:
            assert one.grad is not None
            value += self._penalties[name] / 2 * float((one**2).sum())
            slope = one.grad + self._penalties[name] * one
            if name == "weight":
                weights.append((slope / self._scale).flatten())
            else:
                slopes.append(slope.flatten())
        solved = torch.linalg.solve_triangular(self._root, torch.cat(slopes)[:, None], upper=False)
        return value, torch.cat([solved[:, 0], *weights]).numpy()


def mean_loss(
    crf: HigherOrderCrf,
    photos: Photos,
    states: HalfStates,
    loss: Loss,
    *,
    with_gradient: bool = False,
) -> float:
    """Return the mean loss of photos; with its gradient in the CRF's parameters if asked for."""
    total = 0.0
    crf.zero_grad()
    with torch.set_grad_enabled(with_gradient):
        sums = Sums(crf, states)
        made = (sums.kernel, *sums.inside)
        leaves = [one.detach().requires_grad_(with_gradient) for one in made]
        sums.kernel, sums.inside = leaves[0], (leaves[1], leaves[2])
        for at in range(0, len(photos), _BATCH):
            rows = torch.zeros(len(photos), dtype=torch.bool)
            rows[at : at + _BATCH] = True
            part = photos.rows(rows)
            lost = loss(crf, sums.weigh(part.odds), part) / len(photos)
            total += float(lost.detach())
            if with_gradient:
                lost.backward()  # type: ignore[no-untyped-call]
        if with_gradient:
            torch.autograd.backward(made, [one.grad for one in leaves])
            for one in crf.parameters():
                one.grad = torch.zeros_like(one) if one.grad is None else one.grad
    return total


def strongest_triples(
    crf: HigherOrderCrf, terms: Tensor, photos: Photos, states: HalfStates, count: int
) -> Tensor:
    """Return the triples of labels that photos have least as often as a CRF says, int64 (T, 3).

    By the score test: |observed - expected| / sqrt(expected) of the photos with all three.
    """
    whole = crf.with_terms(terms)
    mean_loss(whole, photos, states, set_loss, with_gradient=True)
    assert whole.triples.grad is not None
    observed = whole.statistics(photos.targets)["triples"].sum(0)
    expected = observed + whole.triples.grad * len(photos)
    score = (observed - expected).abs() / (expected + 1).sqrt()
    return terms[score.topk(min(count, len(terms))).indices.sort().values]
