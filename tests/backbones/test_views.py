"""Views of an image: what they show, the mean of their features, and where they are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.backbones.deferred import defer_backbone
from mlcrf.backbones.engines import TorchEngine
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.feature_maps import feature_map
from mlcrf.backbones.openvino_engine import OpenVinoEngine
from mlcrf.backbones.registry import Backbone, find_spec, make_backbone
from mlcrf.backbones.views import VIEWS, View, enlarged_px
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError
from mlcrf.images import as_image
from tests.backbones.test_feature_maps import PIXELS
from tests.backbones.test_feature_maps import backbone as with_maps

CPU = torch.device("cpu")


def seeing(views: int) -> Backbone:
    """The small network with its first weights."""
    return make_backbone(find_spec("tiny", views=views), seed=0)


def drawn(size_px: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, size_px, size_px, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_two_views_are_the_mean_of_an_image_and_its_mirror() -> None:
    """By numpy's mirror, and so the same for the mirrored image; one view is not."""
    pixels = drawn()
    mirrored = torch.from_numpy(pixels.numpy()[:, :, ::-1].copy())
    plain, both = seeing(1), seeing(2)
    assert torch.allclose(both(pixels), (plain(pixels) + plain(mirrored)) / 2, atol=1e-6)
    assert torch.allclose(both(pixels), both(mirrored), atol=1e-6)
    assert not torch.allclose(plain(pixels), plain(mirrored), atol=1e-3)


@torch.no_grad()
def test_four_views_are_the_mean_of_two_sizes() -> None:
    """The enlarged image is a ramp where the image is one, of the same mean."""
    assert enlarged_px(224) == 288
    assert enlarged_px(64) == 82
    images = torch.arange(7.0).expand(1, 3, 7, 7)
    larger = View(enlarged=True).of(images)
    assert larger.shape == (1, 3, 9, 9)
    assert float(larger.mean()) == pytest.approx(3)
    assert bool((larger.diff(dim=-1) > 0).all())
    assert torch.allclose(View(mirrored=True, enlarged=True).of(images), larger.flip(-1), atol=1e-5)
    pixels = drawn()
    normal = seeing(1).normalise(pixels)
    network = seeing(1).network
    each = [network(view.of(normal)) for view in VIEWS]
    for views in (3, 4):
        expected = torch.stack(each[:views]).mean(0)
        assert torch.allclose(seeing(views)(pixels), expected, atol=1e-6)
    assert not torch.allclose(seeing(3)(pixels), seeing(4)(pixels), atol=1e-4)


@pytest.mark.parametrize("views", [2, 4])
def test_openvino_sees_the_same_views(tmp_path: Path, views: int) -> None:
    """Converted and read again, for batches of any length."""
    pixels = drawn().numpy()
    expected = TorchEngine(seeing(views), CPU)(pixels)
    for _ in range(2):
        found = OpenVinoEngine(seeing(views), tmp_path)(pixels)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_features_are_kept_apart_by_views(tmp_path: Path) -> None:
    """Each number has a key of its own; one view has that of a spec that says nothing of views."""
    keys = {views: FeatureExtractor(seeing(views)).key for views in range(1, 5)}
    assert len(set(keys.values())) == 4
    spec = find_spec("tiny")
    assert spec.views == 1
    assert FeatureExtractor(make_backbone(spec, seed=0)).key == keys[1]


def test_networks_side_by_side_see_the_same_views() -> None:
    """Every part has the views of the whole, built or not, and so its own cached features."""
    spec = find_spec("lite0+lite0@288", views=2)
    whole = make_backbone(spec, pretrained=False)
    assert [part.spec for part in whole.parts] == list(spec.part_specs)
    assert [part.views for part in spec.part_specs] == [2, 2]
    deferred = defer_backbone(spec, 2560, None, lambda: whole)
    assert [part.spec for part in deferred.parts] == list(spec.part_specs)
    alone = defer_backbone(find_spec("lite0", views=2), 1280, None, lambda: whole)
    assert deferred.parts[0].fingerprint() == alone.fingerprint()
    plain = defer_backbone(find_spec("lite0"), 1280, None, lambda: whole)
    assert alone.fingerprint() != plain.fingerprint()


def test_an_image_and_its_mirror_get_the_same_cached_features(tmp_path: Path) -> None:
    """By the extractor, from files; read from the cache the second time."""
    from PIL import Image as Pillow

    flipped = [PIXELS, PIXELS[:, ::-1]]
    paths = [tmp_path / "one.png", tmp_path / "mirror.png"]
    for path, pixels in zip(paths, flipped, strict=True):
        Pillow.fromarray(pixels).save(path)
    images = [as_image(path) for path in paths]
    cache = tmp_path / "cache"
    found = [
        FeatureExtractor(seeing(2), engine=EngineName.TORCH, cache_dir=cache).matrix(images)
        for _ in range(2)
    ]
    assert np.allclose(found[0][0], found[0][1], atol=1e-5)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("views", [2, 3, 4])
def test_maps_of_views_lie_in_the_places_of_the_image(views: int) -> None:
    """Their mean is the features; a mark on the left shows on the left."""
    one = with_maps("tf_efficientnet_lite0")
    one.spec = replace(one.spec, views=views)
    found = feature_map(one, PIXELS)
    with torch.no_grad():
        features = one(torch.from_numpy(PIXELS[None]))[0]
    assert found.shape == (len(features), 2, 2)
    assert torch.allclose(found.mean((1, 2)), features, atol=1e-5 * float(features.abs().max()))


@pytest.mark.parametrize("view", VIEWS)
def test_a_map_is_put_back_in_its_places(view: View) -> None:
    """A map of the view's own pixels is, averaged by area, the image; its mean is kept exactly."""
    image = torch.arange(6.0).repeat_interleave(3).expand(1, 18, 18).clone()
    given = image.flip(-1) if view.mirrored else image
    back = view.undo(given, (6, 6))
    assert torch.allclose(back, torch.arange(6.0).expand(1, 6, 6), atol=1e-5)
    uneven = view.undo(given[:, :7, :9], (5, 4))
    assert float(uneven.mean()) == pytest.approx(float(given[:, :7, :9].mean()), rel=1e-5)


@pytest.mark.parametrize("views", [0, 5, -1])
def test_numbers_of_views_that_are_none(views: int) -> None:
    with pytest.raises(BackboneError, match=f"{views} views: expected a number from 1 to 4"):
        find_spec("lite0", views=views)


def test_networks_of_one_size_are_mirrored_only() -> None:
    """The message says how many views such a network can have."""
    assert make_backbone(find_spec("test_vit3", views=2), pretrained=False).spec.views == 2
    with pytest.raises(BackboneError, match="--views 3 enlarges them to; use --views 2"):
        make_backbone(find_spec("test_vit3", views=3), pretrained=False)
