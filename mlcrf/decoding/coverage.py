"""Families of label sets that hold the right one with a promised probability."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.decoding.sampled_ranking import SamplingRanker
from mlcrf.errors import SettingsError
from mlcrf.inference import InferenceMethod
from mlcrf.inference.ranking import SLACK, EnumeratingRanker, Ranker, Standing, can_enumerate


@dataclass(frozen=True)
class Coverage:
    """A probability that the right label set is in the family of an image.

    The family are the most probable label sets of the image, from the top down, as far as the
    calibration images ask for (split conformal prediction). The score of a label set is the total
    probability of the sets ahead of it and of itself, and 0 for the most probable set:

        score(y) = sum of p(y') over p(y') > p(y),  + share * (sum over p(y') = p(y))

    `share` is 1, or, if randomised, a number between 0 and 1 drawn for each image. The family holds
    the sets whose score is at most `reach`, the k-th smallest score of the right sets of n
    calibration images, k = ceil((n + 1) level). If these images and a new one are exchangeable, the
    right set of the new one is in its family with a probability of at least `level`, and of at most
    level + 1 / (n + 1) unless scores are equal. The family is never empty, so that it covers more
    where the most probable set alone is right more often than that.

    Attributes:
        level: the probability, over images to be tagged and calibration images.
        randomised: see above.
        reach: None as long as it is not calibrated; 1 for the family of all label sets, which too
            few calibration images ask for.
        images: number of calibration images whose labels are all known.
        calibration: name and digest of the calibration images.

    Raises:
        SettingsError: the level is not between 0 and 1.

    Source: Romano, Sesia and Candes (2020), Classification with valid and adaptive coverage, for
    the score; Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world.
    """

    level: float
    randomised: bool = False
    reach: float | None = None
    images: int = 0
    calibration: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise SettingsError(f"coverage: expected a number between 0 and 1, got {self.level:g}")

    def __str__(self) -> str:
        """The parts of a signature."""
        randomised = ",randomised" if self.randomised else ""
        calibration = f",calibration:{self.calibration}" if self.calibration else ""
        return f"{self.level:g}{randomised}{calibration}"

    @property
    def fewest_images(self) -> int:
        """The smallest number of calibration images that ask for less than all label sets."""
        return math.ceil(self.level / (1 - self.level) - SLACK)

    @property
    def is_of_all(self) -> bool:
        """Return whether every family holds all label sets."""
        return self.reach is not None and self.reach >= 1

    def calibrated(self, standing: Standing, calibration: str, seed: int = 0) -> "Coverage":
        """Return the coverage with the reach that calibration images ask for.

        Args:
            standing: of the right label set of each image; NaN for images that are left out, since
                not all of their labels are known.
            calibration: name of the calibration images.
            seed: of their shares, if randomised.
        """
        share = torch.ones_like(standing.ahead)
        if self.randomised:
            drawn = np.random.default_rng(seed).random(len(share))
            share = torch.from_numpy(drawn)
        scores = conformal_scores(standing, share)
        scores = scores[~scores.isnan()]
        place = math.ceil((len(scores) + 1) * self.level - SLACK)
        reach = 1.0 if place > len(scores) else float(scores.sort().values[place - 1])
        return replace(self, reach=reach, images=len(scores), calibration=calibration)

    def shares(self, features: NDArray[np.float32] | Sequence[NDArray[np.float32]]) -> Tensor:
        """Return the share of each image: 1, or drawn by its features alone, float64 (N,).

        So an image has the same family in every batch and on every machine.
        """
        if not self.randomised:
            return torch.ones(len(features), dtype=torch.float64)
        numbers = [
            int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=6).digest(), "big")
            for row in features
        ]
        return torch.tensor(numbers, dtype=torch.float64) / 2.0**48

    def covers(self, standing: Standing, share: Tensor) -> Tensor:
        """Return whether the label sets of these places are in the families, bool (N,)."""
        assert self.reach is not None
        return conformal_scores(standing, share) <= self.reach + SLACK


def conformal_scores(standing: Standing, share: Tensor) -> Tensor:
    """Return the scores of label sets, from 0 to 1, float64 (N,); see `Coverage`."""
    scores = (standing.ahead + share * standing.equal).clamp(max=1)
    return torch.where(standing.ahead <= SLACK, 0.0, scores)


def make_ranker(
    inference: InferenceMethod, potentials: Potentials, *, num_samples: int = 1000, seed: int = 0
) -> Ranker:
    """Return the exact ranker, or one that samples where label sets cannot be enumerated.

    Args:
        inference: draws the samples, or gives the marginals that they are drawn from.
        potentials: any of the images.
    """
    if can_enumerate(potentials):
        return EnumeratingRanker(potentials)
    return SamplingRanker(inference, num_samples, seed)


def rank_targets(
    ranker: Ranker, potentials: Potentials, targets: Tensor, *, known: Tensor | None = None
) -> Standing:
    """Return the places of the right label sets; NaN where not all labels are known (N,).

    Args:
        targets: 1, 0, or below for unknown (N, L).
        known: labels that were known when the image was tagged (N, L).
    """
    result = torch.full((2, len(targets)), torch.nan, dtype=torch.float64)
    whole = (targets >= 0).all(1).nonzero().squeeze(1)
    if len(whole):
        told = None if known is None else known[whole]
        found = ranker.standing(potentials.rows(whole), targets[whole].long(), known=told)
        result[:, whole] = torch.stack(tuple(found))
    return Standing(*result)
