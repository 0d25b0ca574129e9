"""The small network: its shape, its size, and that its seed alone decides its weights."""

import pytest
import torch

from mlcrf.backbones.tiny import Tiny


@pytest.mark.parametrize("size_px", [16, 64, 65])
def test_shape(size_px: int) -> None:
    """Pictures of any size give as many features as it says, none of them infinite."""
    network = Tiny().eval()
    features = network(torch.randn(3, 3, size_px, size_px, generator=torch.manual_seed(0)))
    assert features.shape == (3, Tiny.num_features)
    assert features.isfinite().all()


def test_size() -> None:
    """It has the small number of parameters that its docstring tells, within a third."""
    count = sum(parameter.numel() for parameter in Tiny().parameters())
    assert 33_000 < count < 133_000


def test_mean_and_maximum() -> None:
    """The first half of the features are means of maps and the second half their maxima."""
    network = Tiny().eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))
    means, maxima = network(images).split(64, dim=1)
    maps = network.layers(images).flatten(2)
    torch.testing.assert_close(means, maps.mean(2))
    torch.testing.assert_close(maxima, maps.max(2).values)
    assert (maxima > means).any()


def test_seed_decides() -> None:
    """Equal seeds give equal bits, others do not, and the global random state is left alone."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (Tiny(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["layers.0.0.weight"], other["layers.0.0.weight"])
