"""Initial scenes of a mixture: clusters of the training label sets."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

_SHRINK = 0.5  # because unaries explain much of a scene already


def cluster_scenes(targets: Tensor, num_scenes: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return shifts (K, L) and gate biases (K,) of scenes that differ, both float64.

    Scenes are clusters of the images' label sets. A scene's shift is half the difference
    in log-odds between the label frequencies of its cluster and of all images; its bias is its
    share of the images. Unknown labels count with their usual frequency.

    Args:
        targets: 1 present, 0 absent, -1 unknown (N, L).
        seed: random seed of the clustering.
    """
    y, known = (targets == 1).double().numpy(), (targets >= 0).numpy()
    usual = ((y * known).sum(0) + 0.5) / (known.sum(0) + 1)
    filled = np.where(known, y, usual)
    rng = np.random.default_rng(seed)
    _, cluster = kmeans2(filled, num_scenes, minit="++", rng=rng)
    shifts, biases = np.zeros((num_scenes, targets.shape[1])), np.zeros(num_scenes)
    for scene in range(num_scenes):
        members = filled[cluster == scene]
        frequency = (members.sum(0) + 10 * usual) / (len(members) + 10)
        shifts[scene] = _SHRINK * (_logit(frequency) - _logit(usual))
        biases[scene] = np.log((len(members) + 1) / len(filled))
    return torch.from_numpy(shifts), torch.from_numpy(biases)


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(p / (1 - p))
    return result
