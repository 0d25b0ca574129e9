"""Temperatures of a model: a factor of its unaries and a factor of its couplings.

    p(y | x) ~ exp( a sum_i unary_i(x) y_i + b sum_{i<j} pairwise_ij y_i y_j )

A CRF is linear in its potentials, so the negative log-likelihood of labelled images is convex in
(a, b). The independent baseline has no couplings, and a alone. Costs of rules stay as they are.
Factors are chosen on images that the model was not fitted to. They are kept only if they are better
on images that they were not chosen on, in five-fold cross-validation: the mean gain has to exceed
its standard error, and the loss of single labels, by the marginals of the inference in use, must
not become worse by more than its own and half a percent. Else stronger couplings could buy
probability of whole sets with that of labels, which `mlcrf.training.weighing` weighs when a run is
trained.

Where the inference in use has an exact log Z, the loss of an image is its joint likelihood, unknown
labels summed out (it need not be convex then). Else it is the pseudo-likelihood, each known label
given the others, which needs no log Z and is convex as well.

Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks (2017), section
4.2, for the temperature of a classifier.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import InferenceMethod, LogPartitionKind, log_mass
from mlcrf.objectives import pseudo_likelihood_by_image

MOST_IMAGES = 2000  # that factors are chosen on
_FEWEST_IMAGES = 100
_FOLDS = 5
_RANGE = (0.05, 20.0)
_MOST_ROUNDS = 8
_STEP = 0.1  # of a factor, for differences
_NEAR = 0.1  # a logarithm of factors, within which quadratic models are trusted
_TRIFLE = 0.005  # share of a loss, as in `mlcrf.training.weighing`
_LEAST = 1e-6  # probability; samples may give 0


@dataclass(frozen=True)
class Factors:
    """Multipliers of a model's potentials: the inverse of a temperature each."""

    unary: float = 1.0
    pairwise: float = 1.0

    def __post_init__(self) -> None:
        least, most = _RANGE
        if not all(least <= one <= most for one in (self.unary, self.pairwise)):
            raise ValueError(
                f"expected factors from {least:g} to {most:g}, got {self.unary}, {self.pairwise}"
            )

    def __str__(self) -> str:
        return f"unaries x {self.unary:.3f}, couplings x {self.pairwise:.3f}"


@dataclass(frozen=True)
class Tempering:
    """Factors that were found, and whether they are kept.

    Attributes:
        found: the factors of least loss on all images.
        gain: by how much factors of the other folds lower the loss of an image, in nats: the mean
            and its standard error.
        single_gain: the same of the loss of single labels.
        single_loss: the mean loss of single labels without factors.
        joint: whether the loss is the joint likelihood; else the pseudo-likelihood.
        images: number of images.
    """

    found: Factors
    gain: tuple[float, float]
    single_gain: tuple[float, float]
    single_loss: float
    joint: bool
    images: int

    @property
    def is_kept(self) -> bool:
        gain, error = self.gain
        of_single, doubt = self.single_gain
        return gain > error and of_single >= -max(doubt, _TRIFLE * self.single_loss)

    @property
    def factors(self) -> Factors:
        """The factors to use."""
        return self.found if self.is_kept else Factors()

    def __str__(self) -> str:
        (gain, error), (single, doubt) = self.gain, self.single_gain
        return (
            f"{self.found}: gain {gain:+.4f} +- {error:.4f} nats per image, of single labels "
            f"{single:+.4f} +- {doubt:.4f}; {'kept' if self.is_kept else 'not kept'}"
        )


@torch.no_grad()
def choose_factors(
    potentials: Potentials, targets: Tensor, method: InferenceMethod, *, seed: int = 0
) -> Tempering:
    """Choose factors on images that the model was not fitted to.

    Newton's method on quadratic models of each image's loss, from its values at six pairs of
    factors; so the optimum without a fold costs nothing more.

    Args:
        potentials: of N images; at most 2,000 of them are used, drawn at random.
        targets: 1, 0, or -1 for unknown (N, L).
        method: the inference in use.
        seed: random seed of the folds, and of the images that are drawn.

    Returns:
        The choice; of fewer than 100 images of which something is known, factors of 1.

    Cost: about 8 times inference, or up to 60 times where factors are far from 1.
    """
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(targets))
    rows = torch.from_numpy(order)
    rows = rows[(targets[rows] != UNKNOWN).any(1)][:MOST_IMAGES]
    images = _Images(potentials.rows(rows), targets[rows].long(), method)
    if len(rows) < _FEWEST_IMAGES:
        return Tempering(Factors(), (0.0, 0.0), (0.0, 0.0), 0.0, images.joint, len(rows))
    model = images.minimise()
    loss, single = images.losses(Factors())
    single_loss = float(single.mean())
    fold = torch.arange(len(rows)) % _FOLDS
    for number in range(_FOLDS):
        inside = fold == number
        after = images.only(inside).losses(model.best(~inside))
        loss[inside] -= after[0]
        single[inside] -= after[1]
    everywhere = torch.ones_like(fold, dtype=torch.bool)
    return Tempering(
        model.best(everywhere),
        _mean(loss),
        _mean(single),
        single_loss,
        images.joint,
        len(rows),
    )


@dataclass(frozen=True)
class _Quadratic:
    """Quadratic models of N losses around factors, in D of them.

    Attributes:
        at: the factors (2,).
        gradient, hessian: float64, (N, D) and (N, D, D).
    """

    at: Tensor
    gradient: Tensor
    hessian: Tensor

    def best(self, chosen: Tensor) -> Factors:
        """Return the factors of least mean loss of some of the images, bool (N,)."""
        gradient, hessian = self.gradient[chosen].mean(0), self.hessian[chosen].mean(0)
        sizes, axes = torch.linalg.eigh(hessian)
        # with unknown labels the loss need not be convex
        along = (axes.T @ gradient) / sizes.abs().clamp(min=_LEAST)
        best = self.at.clone()
        best[: len(gradient)] -= axes @ along
        low, high = _RANGE
        # not trusted beyond a factor of 2
        best = best.clamp(self.at / 2, self.at * 2).clamp(low, high)
        return Factors(*best.tolist())


class _Images:
    """Held-out images, whose loss is a function of the factors."""

    def __init__(self, potentials: Potentials, targets: Tensor, method: InferenceMethod) -> None:
        self._potentials, self._targets, self._method = potentials, targets, method
        self.joint = (
            method(potentials.rows(slice(0, 1))).log_partition_kind is LogPartitionKind.EXACT
        )

    def only(self, chosen: Tensor) -> "_Images":
        """Return some of the images, bool (N,)."""
        return _Images(self._potentials.rows(chosen), self._targets[chosen], self._method)

    def minimise(self) -> _Quadratic:
        """Return the models of the losses around factors near the least mean loss."""
        at = torch.ones(2, dtype=torch.float64)
        everywhere = torch.ones(len(self._targets), dtype=torch.bool)
        for _ in range(_MOST_ROUNDS):
            model = self._expand(at)
            best = model.best(everywhere)
            moved = torch.tensor([best.unary, best.pairwise], dtype=torch.float64)
            if bool(((moved / at).log().abs() < _NEAR).all()):
                break
            at = moved
        return model

    def _expand(self, at: Tensor) -> _Quadratic:
        """Return quadratic models around factors (2,), by differences."""
        size = 2 if len(self._potentials.edges) else 1
        steps = torch.diag(_STEP * at)[:size]

        def value(*moves: Tensor) -> Tensor:
            return self.losses(Factors(*sum(moves, start=at).tolist()), single=False)[0]

        middle = value()
        above, below = (torch.stack([value(sign * step) for step in steps], 1) for sign in (1, -1))
        lengths = steps.diagonal()
        gradient = (above - below) / (2 * lengths)
        hessian = torch.diag_embed((above + below - 2 * middle[:, None]) / lengths**2)
        if size > 1:
            mixed = value(*steps) - above.sum(1) + middle
            hessian[:, 0, 1] = hessian[:, 1, 0] = mixed / lengths.prod()
        return _Quadratic(at, gradient, hessian)

    def losses(self, factors: Factors, *, single: bool = True) -> tuple[Tensor, Tensor]:
        """Return the loss of each image, and -sum_i log P(y_i) by the marginals, float64 (N,).

        Args:
            single: False leaves the second at 0.
        """
        scaled = self._potentials.scaled(factors.unary, factors.pairwise)
        known = self._targets != UNKNOWN
        posterior = self._method(scaled) if self.joint or single else None
        if self.joint:
            assert posterior is not None
            agreeing = log_mass(self._method, scaled, self._targets)
            loss = (posterior.log_partition - agreeing).double()
        else:
            loss = pseudo_likelihood_by_image(scaled, self._targets).double()
        if posterior is None or not single:
            return loss, torch.zeros_like(loss)
        p = posterior.marginals.double().clamp(_LEAST, 1 - _LEAST)
        truth = torch.where(known, self._targets, 0).double()
        each = F.binary_cross_entropy(p, truth, reduction="none")
        return loss, (each * known).sum(1)


def _mean(values: Tensor) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
