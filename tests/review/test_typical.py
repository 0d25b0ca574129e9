"""Photos to ask about a tag of which none is known."""

import torch

from mlcrf.review.typical import typical_photos


def test_one_photo_of_each_group_comes_first_and_large_groups_before_small_ones() -> None:
    """Neither the number of photos nor a feature that is always the same gets in the way."""
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=generator)]
    noise = 0.1 * torch.randn(100, 3, generator=generator)
    features = torch.cat([torch.eye(3)[group] + noise, torch.ones(100, 1)], 1)
    first = typical_photos(features, 3)
    assert group[first].tolist() == [0, 1, 2]
    everything = typical_photos(features, 200)
    assert torch.equal(everything[:3], first)
    assert sorted(everything.tolist()) == list(range(100))


def test_an_archive_of_equal_photos() -> None:
    assert len(typical_photos(torch.ones(3, 2), 2).unique()) == 2
