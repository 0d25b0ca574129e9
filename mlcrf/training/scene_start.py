"""What latent scenes start from."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mlcrf.model import LabelCrf

_SHRINK = 0.5  # unaries say much of a scene already


@torch.no_grad()
def spread_scenes(model: LabelCrf, targets: Tensor, *, seed: int) -> LabelCrf:
    """The same model with scenes that differ: clusters of the training images' label sets.

    Each starts with half of what tells its labels' frequencies from all images' in log-odds, and
    with its share of the images. Unknown labels count as usual ones.

    Args:
        targets: 1 present, 0 absent, -1 unknown (N, L).
        seed: of the clusters.
    """
    assert model.shifts is not None and model.scene_gates is not None
    y, known = (targets == 1).double().numpy(), (targets >= 0).numpy()
    usual = ((y * known).sum(0) + 0.5) / (known.sum(0) + 1)
    filled = np.where(known, y, usual)
    rng = np.random.default_rng(seed)
    _, cluster = kmeans2(filled, model.num_scenes, minit="++", rng=rng)
    result = model.clone()
    assert result.shifts is not None and result.scene_gates is not None
    for scene in range(model.num_scenes):
        members = filled[cluster == scene]
        frequency = (members.sum(0) + 10 * usual) / (len(members) + 10)
        odds = _logit(frequency) - _logit(usual)
        result.shifts[scene] = torch.from_numpy(_SHRINK * odds)
        result.scene_gates.bias[scene] = float(np.log((len(members) + 1) / len(filled)))
    return result


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(p / (1 - p))
    return result
