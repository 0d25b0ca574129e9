"""Backbones by name: found, suggested, built, told apart, and never waited for in vain."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import huggingface_hub.constants as hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mlcrf.backbones import hub_access, registry
from mlcrf.backbones.registry import (
    Backbone,
    BackboneSpec,
    Source,
    Tiny,
    available_offline,
    find_spec,
    make_backbone,
)
from mlcrf.errors import BackboneError


def test_known_names() -> None:
    """The bundled networks say what they want, and timm's say what timm has on record."""
    half = (0.5, 0.5, 0.5)
    assert find_spec("lite0") == BackboneSpec("lite0", Source.PACKAGE, 224, half, half)
    assert find_spec("lite2").size_px == 260
    assert find_spec("tiny") == BackboneSpec("tiny", Source.SCRATCH, 64, half, half)
    assert find_spec("resnet18.a1_in1k") == BackboneSpec(
        "resnet18.a1_in1k", Source.HUB, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert find_spec("resnet18").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "meant"), [("lite9", "lite0"), ("tinny", "tiny"), ("resnet1", "resnet18")]
)
def test_unknown_names_get_suggestions(name: str, meant: str) -> None:
    """A slip of the pen is answered with the names that are closest."""
    with pytest.raises(BackboneError, match=rf"unknown backbone '{name}'.* did you mean .*{meant}"):
        find_spec(name)


def test_name_like_nothing() -> None:
    """A name that is like no other is just unknown."""
    with pytest.raises(BackboneError, match=r"none of lite0-2, tiny or timm's$"):
        find_spec("@@@@")


@pytest.mark.parametrize("name", ["resnet18.nope", "resnet18."])
def test_unknown_weights(name: str) -> None:
    """A network that timm knows with weights that it does not is told with those that it does."""
    with pytest.raises(BackboneError, match=r"no such weights; known are .*resnet18\.a1_in1k"):
        find_spec(name)


def test_input_is_normalised() -> None:
    """A backbone sees (pixel / 255 - mean) / std, channels first."""

    class Show(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    spec = BackboneSpec("x", Source.SCRATCH, 2, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 2, 2, 3) * 10
    images = Backbone(spec, Show(), 0)(pixels)
    for n, row, column, channel in torch.cartesian_prod(*map(torch.arange, (2, 2, 2, 3))).tolist():
        value = pixels[n, row, column, channel].item() / 255
        expected = (value - spec.mean[channel]) / spec.std[channel]
        assert images[n, channel, row, column].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["tiny", "lite0", "test_resnet", "mobilenetv3_small_050"])
def test_num_features_is_what_comes_out(name: str) -> None:
    """The width that a backbone tells is that of its output, also behind a wider head."""
    backbone = make_backbone(find_spec(name), pretrained=False)
    size = backbone.spec.size_px
    assert not backbone.training
    with torch.inference_mode():
        features = backbone(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    assert features.shape == (2, backbone.num_features)


def test_seed_of_new_weights() -> None:
    """Networks without published weights are made from the seed."""
    spec = find_spec("tiny")
    one, same, other = (make_backbone(spec, seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other


def test_fingerprint_changes_with_all_that_features_depend_on() -> None:
    """Another weight, statistic, size, colour scale or network is another fingerprint."""
    spec = find_spec("tiny")
    original = make_backbone(spec).fingerprint()
    nudged, counted = make_backbone(spec), make_backbone(spec)
    with torch.no_grad():
        nudged.get_parameter("network.layers.3.0.weight")[0, 0, 0, 0] += 1e-7
        counted.get_buffer("network.layers.0.1.running_mean")[0] = 1e-7
    specs = [
        replace(spec, size_px=65),
        replace(spec, mean=(0.5, 0.5, 0.4)),
        replace(spec, std=(0.5, 0.5, 0.4)),
        replace(spec, name="another"),
    ]
    others = [Backbone(one, Tiny(), 128).fingerprint() for one in specs]
    prints = [original, nudged.fingerprint(), counted.fingerprint(), *others]
    assert len(set(prints)) == len(prints)


def test_fingerprint_survives_a_run_directory() -> None:
    """A spec that went through JSON, and weights on another memory layout, keep the fingerprint."""
    backbone = make_backbone(find_spec("tiny"))
    before = backbone.fingerprint()
    loaded: dict[str, Any] = json.loads(json.dumps(asdict(backbone.spec)))
    again = make_backbone(BackboneSpec(**loaded | {"source": Source(loaded["source"])}))
    assert again.fingerprint() == before
    assert backbone.to(memory_format=torch.channels_last).fingerprint() == before


def test_available_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What works without a network is what is installed, and `tiny` always."""
    assert available_offline()["lite0"]
    monkeypatch.setattr(registry, "find_weights", lambda name: None)
    assert available_offline() == {"tiny": True, "lite0": False, "lite1": False, "lite2": False}


# The hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that does not answer; the folder where its client keeps weights, empty."""
    monkeypatch.setattr(hub_access, "_hub_answers", lambda: False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_hub")
def test_unreachable_hub_fails() -> None:
    """Without a network the error comes at once, and the hub's client is left as it was."""
    with pytest.raises(
        BackboneError, match=r"'test_resnet\.r160_in1k'.* Use lite0, lite1 or lite2"
    ):
        make_backbone(find_spec("test_resnet.r160_in1k"))
    assert hub.HF_HUB_OFFLINE is False


def test_weights_that_were_fetched_before_load_offline(no_hub: Path) -> None:
    """Weights in the cache of the hub's client are used where the hub is not to be reached."""
    name = "test_resnet.r160_in1k"
    wanted = timm.create_model("test_resnet").state_dict()
    folder = no_hub / f"models--timm--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(wanted, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    state = make_backbone(find_spec(name)).network.state_dict()
    assert state
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
    assert hub.HF_HUB_OFFLINE is False


def test_input_sizes_of_ones_own() -> None:
    """`@` sets a network's input size; its own size is the same backbone as without."""
    assert find_spec("lite0@288") == replace(find_spec("lite0"), name="lite0@288", size_px=288)
    assert find_spec("lite0@224") == find_spec("lite0")
    assert find_spec("lite1@240+lite0@288").name == "lite1+lite0@288"
    assert find_spec("resnet18@160").mean == (0.485, 0.456, 0.406)
    small, large = (make_backbone(find_spec(name), seed=3) for name in ("tiny", "tiny@96"))
    pixels = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    assert torch.equal(small(pixels), large(pixels))
    assert small.fingerprint() != large.fingerprint()


@pytest.mark.parametrize("name", ["lite0@", "lite0@big", "lite0@16", "lite0@4096", "lite0+lite1@0"])
def test_input_sizes_that_are_none(name: str) -> None:
    """The message names the backbone and the range."""
    with pytest.raises(BackboneError, match=r"lite.@.*expected an input size from 32 to 1024 px"):
        find_spec(name)


def test_networks_of_one_size_only() -> None:
    """A network that learned positions takes no other size, and the message says so."""
    spec = find_spec("test_vit3@192")
    with pytest.raises(BackboneError, match="does not take images of 192 px; name it without @"):
        make_backbone(spec, pretrained=False)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("set_offline", [True, False])
def test_client_is_offline_only_while_it_must_be(
    monkeypatch: pytest.MonkeyPatch, answers: bool, set_offline: bool
) -> None:
    """The client may ask a hub that answers, unless the user forbids it; cached weights load."""
    states = []

    def create(name: str, **settings: Any) -> nn.Module:
        states.append((settings["pretrained"], hub.HF_HUB_OFFLINE))
        return Tiny()

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", set_offline)
    monkeypatch.setattr(hub_access, "_hub_answers", lambda: answers)
    monkeypatch.setattr(timm, "create_model", create)
    assert make_backbone(find_spec("test_resnet")).num_features == 128
    assert states == [(True, set_offline or not answers)]
    assert hub.HF_HUB_OFFLINE is set_offline


def test_hub_is_not_asked_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a checkpoint will bring the weights, the hub is not asked for anything."""

    def fail() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(hub_access, "_hub_answers", fail)
    assert make_backbone(find_spec("test_resnet"), pretrained=False).num_features == 96
    with pytest.raises(BackboneError, match="AssertionError"):
        make_backbone(find_spec("test_resnet"))


def test_hub_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer counts; a refusal counts as none, and silence after the time allowed."""
    over = Event()

    def hang(*_: Any, **__: Any) -> None:
        over.wait()

    def refuse(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("refused")

    asked = []
    monkeypatch.setattr(httpx, "head", lambda url, **_: asked.append(url))
    assert hub_access._hub_answers()
    assert asked == [hub.ENDPOINT]
    monkeypatch.setattr(httpx, "head", hang)
    assert not hub_access._hub_answers(timeout_s=0.2)
    over.set()
    monkeypatch.setattr(httpx, "head", refuse)
    assert not hub_access._hub_answers()


@pytest.mark.parametrize("size_px", [16, 64, 65])
def test_shape_of_tiny(size_px: int) -> None:
    """Pictures of any size give as many features as it says, none of them infinite."""
    network = Tiny().eval()
    features = network(torch.randn(3, 3, size_px, size_px, generator=torch.manual_seed(0)))
    assert features.shape == (3, Tiny.num_features)
    assert features.isfinite().all()


def test_size_of_tiny() -> None:
    """It has the small number of parameters that its docstring tells, within a third."""
    count = sum(parameter.numel() for parameter in Tiny().parameters())
    assert 33_000 < count < 133_000


def test_tiny_gives_mean_and_maximum() -> None:
    """The first half of the features are means of maps and the second half their maxima."""
    network = Tiny().eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))
    means, maxima = network(images).split(64, dim=1)
    maps = network.layers(images).flatten(2)
    torch.testing.assert_close(means, maps.mean(2))
    torch.testing.assert_close(maxima, maps.max(2).values)
    assert (maxima > means).any()


def test_seed_decides_tiny() -> None:
    """Equal seeds give equal bits, others do not, and the global random state is left alone."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (Tiny(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["layers.0.0.weight"], other["layers.0.0.weight"])
