"""Families of label sets of images, as they are written."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.decoding import Coverage, make_ranker
from mlcrf.inference import InferenceMethod
from mlcrf.inference.ranking import Ranker
from mlcrf.prediction.record import MOST_SETS, Family


class FamilyFinder:
    """The families of label sets of the images of one run.

    Args:
        coverage: calibrated.
        names: labels of the run.
    """

    def __init__(
        self, coverage: Coverage, inference: InferenceMethod, names: tuple[str, ...]
    ) -> None:
        self._coverage, self._inference, self._names = coverage, inference, names
        self._ranker: Ranker | None = None

    @torch.no_grad()
    def __call__(
        self, potentials: Potentials, features: list[NDArray[np.float32]], known: Tensor | None
    ) -> list[Family]:
        """Return the family of each image.

        Args:
            features: of each image; a family depends on them only if it is randomised.
            known: 1, 0, or -1 for unknown (N, L).
        """
        reach = self._coverage.reach
        assert reach is not None
        self._ranker = self._ranker or make_ranker(self._inference, potentials)
        share = self._coverage.shares(features)
        leaders = self._ranker.leaders(potentials, reach, share, known=known)
        is_open = ~(leaders.present | leaders.absent)
        rows = zip(leaders.count.tolist(), leaders.present, is_open, strict=True)
        return [
            Family(
                self._named(present),
                self._named(left),
                round(min(count, MOST_SETS)),
                leaders.is_exact,
            )
            for count, present, left in rows
        ]

    def _named(self, states: Tensor) -> tuple[str, ...]:
        return tuple(
            name for name, state in zip(self._names, states.tolist(), strict=True) if state
        )
