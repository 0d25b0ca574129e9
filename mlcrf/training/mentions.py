"""Sources that list only a part of what is present: how often they mention a label.

A source mentions a label l that is present with probability c_l, whatever else the image shows, and
never one that is absent (selected completely at random: Elkan and Noto 2008). Then

    P(mentioned | x) = c_l P(present | x)

so that c_l is the share of images with a mention among those that surely show the label. These are
taken to be the images of highest score by a baseline that learned to predict mentions from other
images, as many as a fifth of the mentions. Not all of them show the label, so c_l is rather too
small. Maximising the likelihood in c_l instead fails: a penalised logistic regression is hardly
ever sure, and explains few mentions by few labels (`experiments/sources`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.config import TrainSettings
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.processes import Processes
from mlcrf.training.examples import Examples
from mlcrf.training.stacking import score_by_baselines

_SURE = 0.2  # share of the mentions
_DRAWN = 50.0  # images by which a label's share is drawn towards that of all labels
_RANGE = (0.02, 0.98)

Said = Mapping[str, NDArray[np.int8]]  # of each source, (N, L): see `Manifest.mentions`


@dataclass(frozen=True)
class Silence:
    """Combinations of sources that do not mention a label.

    Attributes:
        sources: names of the sources (S,).
        combinations: bool (K, S); row k has the code -2 - k in the targets.
    """

    sources: tuple[str, ...]
    combinations: NDArray[np.bool_]

    def evidence(self, shares: NDArray[np.float64]) -> Tensor:
        """Return log P(not mentioned | present), first a row of 0, then of each code (K + 1, L).

        Args:
            shares: c of each source and label (S, L).
        """
        each = self.combinations @ np.log1p(-shares)
        return torch.from_numpy(np.vstack([np.zeros(shares.shape[1]), each])).float()


def code_silence(targets: NDArray[np.int8], said: Said) -> tuple[NDArray[np.int8], Silence]:
    """Return targets in which an unknown label that is not mentioned has a code below -1."""
    sources = tuple(said)
    silent = (
        np.stack([said[name] == 0 for name in sources], axis=-1) & (targets == UNKNOWN)[..., None]
    )
    found, place = np.unique(silent.reshape(-1, len(sources)), axis=0, return_inverse=True)
    codes = np.where(found.any(1), UNKNOWN - np.cumsum(found.any(1)), UNKNOWN)
    coded = np.where(silent.any(-1), codes[place.reshape(targets.shape)], targets)
    return coded.astype(np.int8), Silence(sources, found[found.any(1)])


def learn_mentions(
    examples: Examples,
    said: Said,
    settings: TrainSettings,
    processes: Processes,
    run: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]],
) -> NDArray[np.float64]:
    """Estimate the share of present labels that each source mentions (S, L).

    Args:
        examples: training and validation images; targets 1, 0, -1 unknown.
        run: computes a stage of the run, or finds it finished.

    Cost: five fits of the baseline.
    """

    def compute() -> dict[str, Tensor]:
        silent = np.stack([one == 0 for one in said.values()]).any(0)
        targets = np.where(silent & (examples.targets == UNKNOWN), 0, examples.targets)
        listed = Examples(examples.features, targets.astype(np.int8))
        scores = score_by_baselines(listed, settings, processes)
        shares = [_shares(scores, examples.targets, one) for one in said.values()]
        return {"shares": torch.from_numpy(np.stack(shares))}

    shares: NDArray[np.float64] = run("mentions", compute)["shares"].numpy()
    return shares


def _shares(
    scores: NDArray[np.float32], targets: NDArray[np.int8], said: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return the share of images with a mention among those of highest score, of each label (L,).

    Images that are known to be without the label do not count.
    """
    images, hits = np.zeros(said.shape[1]), np.zeros(said.shape[1])
    for label, own in enumerate(said.T):
        spoken = np.flatnonzero((own != UNKNOWN) & (targets[:, label] != 0))
        mentions = int((own[spoken] == 1).sum())
        if not mentions:
            continue
        count = max(1, round(_SURE * mentions))
        sure = spoken[np.argsort(-scores[spoken, label], kind="stable")[:count]]
        images[label], hits[label] = len(sure), (own[sure] == 1).sum()
    common = (hits.sum() + 1) / (images.sum() + 2)
    shares: NDArray[np.float64] = (hits + _DRAWN * common) / (images + _DRAWN)
    return shares.clip(*_RANGE)


@torch.no_grad()
def draw_unmentioned(targets: Tensor, marginals: Tensor, silence: Tensor, *, seed: int) -> Tensor:
    """Return targets in which labels that are not mentioned are drawn from what is then likely.

    So that they hold as many present labels as there are: what is known alone has none but present
    labels.

    Args:
        targets: with the codes of `code_silence` (N, L).
        marginals: probability of each label by the image alone (N, L).
    """
    labels = torch.arange(targets.shape[1])
    left = silence[(UNKNOWN - targets.long()).clamp(min=0), labels].exp() * marginals
    drawn = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed))
    present = (drawn < left / (1 - marginals + left)).to(targets)
    return torch.where(targets < UNKNOWN, present, targets)


def name_shares(
    sources: tuple[str, ...], shares: NDArray[np.float64], said: Said, labels: LabelSpace
) -> dict[str, dict[str, float]]:
    """Return the shares by source and label, of the labels that a source speaks of."""
    return {
        name: {
            label: round(float(shares[row, column]), 4)
            for column, label in enumerate(labels)
            if (said[name][:, column] != UNKNOWN).any()
        }
        for row, name in enumerate(sources)
    }
