"""Couplings learned on log-odds of the baseline for images that it did not see.

A head with hundreds of weights per label fits its own training images too well: beside such unaries
couplings learn little, and joint learning lets them take over what the image should say. So the
images are cut into folds, each is scored by a baseline that has not seen it, and couplings and
biases are learned on these log-odds, which err as they will err on new images (Wolpert, "Stacked
generalization", 1992).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.implications import Implications
from mlcrf.model import LabelCrf
from mlcrf.processes import Processes
from mlcrf.training.features import FeatureSpace

FOLDS = 5
FOLD_TOLERANCE = 1e-4  # nats per image; log-odds need no more


class CrfOfLogOdds(LabelCrf):
    """A CRF whose unaries are given log-odds (N, L) plus a bias; the head's weights have no use."""

    def __init__(self, num_labels: int, edges: Tensor, implications: Implications) -> None:
        super().__init__(1, num_labels, edges=edges, implications=implications)

    def unary(self, features: Tensor) -> Tensor:
        return features + self.output.bias

    @torch.no_grad()
    def above(self, baseline: LabelCrf) -> LabelCrf:
        """Return the model of features that has these biases and couplings above a baseline."""
        result = LabelCrf(
            baseline.output.in_features,
            self.num_labels,
            edges=self.edges,
            implications=self.implications,
        )
        result.output.weight.copy_(baseline.output.weight)
        result.output.bias.copy_(baseline.output.bias + self.output.bias)
        result.pairwise.copy_(self.pairwise)
        return result


class LogOddsSpace(FeatureSpace):
    """Log-odds of the training images in place of features, neither standardised nor rotated."""

    def __init__(self, log_odds: Tensor, targets: Tensor, processes: Processes) -> None:
        self.processes = processes
        self._length = len(log_odds)
        self._rotated = log_odds
        self.targets = targets

    def to_features(self, model: LabelCrf) -> LabelCrf:
        return model.clone()

    def to_axes(self, model: LabelCrf) -> LabelCrf:
        return model.clone()


@torch.no_grad()
def out_of_fold(
    space: FeatureSpace, fit_without: Callable[[int, FeatureSpace], LabelCrf], *, seed: int
) -> LogOddsSpace:
    """Return each image's log-odds by a baseline that was fitted without the image's fold.

    Args:
        fit_without: called with the number of a fold and the space in which that fold's targets are
            unknown; returns a model of the space's axes.
        seed: random seed of the folds.

    Cost: that of `FOLDS` fits, and O(N L) memory.
    """
    fold: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(space)) % FOLDS
    log_odds = torch.zeros(space.targets.shape)
    for number in range(FOLDS):
        inside = torch.from_numpy(fold == number)
        with torch.enable_grad():
            model = fit_without(number, space.without_targets(inside))
        for rows in space.blocks():
            log_odds[rows] += model.unary(space.inputs(rows)) * inside[rows, None]
    space.processes.all_reduce(log_odds)
    return LogOddsSpace(log_odds, space.targets, space.processes)
