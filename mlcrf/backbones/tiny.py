"""A small network trained from scratch, for drawn scenes and tests."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Four strided 3 x 3 convolutions with batch normalisation: (N, 3, H, W) -> (N, 128).

    Half the features are the mean of a channel over the picture, half its maximum, so that a
    small mark is not averaged away. About 100,000 parameters.

    Args:
        seed: of the initial weights; the global random state is left as it was.
    """

    num_features = 128

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        widths = [3, 24, 32, 48, 64]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                *(
                    nn.Sequential(
                        nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                        nn.BatchNorm2d(wide),
                        nn.ReLU(),
                    )
                    for narrow, wide in pairwise(widths)
                )
            )

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        maps = self.layers(images)
        return torch.cat([maps.mean((-2, -1)), maps.amax((-2, -1))], -1)
