"""Weights of one's own: of a file, a folder and a hub, and nothing that may run code."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import Backbone, Source, find_spec, make_backbone
from mlcrf.backbones.sources import make_source
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels

ARCHITECTURE = "test_resnet"
MEAN = (0.1, 0.2, 0.3)


def draw_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(ARCHITECTURE, num_classes=5).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network as timm saves it, with a transform of its own."""
    network = draw_network()
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": MEAN, "input_size": (3, 96, 96)}
    save_for_hf(network, tmp_path / "net", safe_serialization=True)
    return tmp_path / "net"


@pytest.fixture
def loopback_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine with the folder as org/net, asked in place of the real one."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            path = folder / self.path.rpartition("/")[2]
            self.answer(path.read_bytes() if path.is_file() else b"")

        def answer(self, content: bytes) -> None:
            path = folder / self.path.rpartition("/")[2]
            found = path.is_file() and self.path.startswith("/org/net/resolve/main/")
            self.send_response(200 if found or self.path == "/" else 404)
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            size = path.stat().st_size if found else 0
            self.send_header("Content-Length", str(size))
            self.send_header("ETag", f'"{path.name}-{size}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(hub, "ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(folder.parent / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    yield folder
    server.shutdown()
    server.server_close()


def require_same_features(backbone: Backbone, size_px: int) -> None:
    pixels = torch.randint(0, 256, (2, size_px, size_px, 3), dtype=torch.uint8)
    network = draw_network()
    network.reset_classifier(0)
    with torch.inference_mode():
        assert torch.equal(backbone(pixels), network(backbone.normalise(pixels)))


@pytest.mark.parametrize("with_head", [True, False])
def test_weights_of_a_file(with_head: bool, tmp_path: Path) -> None:
    """Any architecture of timm's takes them, with the head that it was trained with or without."""
    path = tmp_path / "mine.safetensors"
    state = draw_network().state_dict()
    save_file({key: one for key, one in state.items() if with_head or key[:3] != "fc."}, path)
    spec = find_spec(ARCHITECTURE, str(path))
    assert (spec.source, spec.weights, spec.size_px) == (Source.OWN, str(path), 160)
    require_same_features(make_backbone(spec), 160)


def test_a_folder_brings_its_transform(folder: Path) -> None:
    """Size and colours are those of its config.json."""
    spec = find_spec(f"local-dir:{folder}")
    assert (spec.name, spec.size_px, spec.mean) == (f"local-dir:{folder}", 96, MEAN)
    require_same_features(make_backbone(spec), 96)


def test_a_repository_of_the_hub(loopback_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched once, and then found where there is no hub; its pickles are not read."""
    spec = find_spec("hf-hub:org/net")
    assert (spec.name, spec.size_px, spec.mean) == ("hf-hub:org/net", 96, MEAN)
    require_same_features(make_backbone(spec), 96)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    require_same_features(make_backbone(spec), 96)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    (loopback_hub / "model.safetensors").rename(loopback_hub / "pytorch_model.bin")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(loopback_hub.parent / "other"))
    with pytest.raises(BackboneError, match=r"has no config.json and model.safetensors; only safe"):
        find_spec("hf-hub:org/net")


def test_changed_weights_are_named(tmp_path: Path) -> None:
    """A run does not take other weights for its own, and features are cached apart."""
    path, size = tmp_path / "mine.safetensors", 2
    keys = []
    for seed in range(size):
        save_file(draw_network(seed).state_dict(), path)
        spec = find_spec(ARCHITECTURE, str(path))
        source = make_source(make_backbone(spec))
        keys.append(source.key)  # type: ignore[attr-defined]
    assert len(set(keys)) == size
    save_file(draw_network(0).state_dict(), path)
    with pytest.raises(BackboneError, match="not the weights that the run learned with"):
        make_backbone(spec)
    path.unlink()
    with pytest.raises(BackboneError, match=r"mine.safetensors: the weights .* cannot be read"):
        make_backbone(spec)
    assert make_backbone(spec, pretrained=False).num_features == 96  # a trained run has its own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.0.weight": None}, "lacks conv1.0.weight"),
        ({"more": torch.zeros(1)}, "has besides more"),
        ({"bn1.weight": torch.zeros(3)}, r"has bn1.weight \(3,\) instead of"),
    ],
)
def test_weights_of_another_network(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    state = {**draw_network().state_dict(), **change}
    if "conv1.0.weight" in change:
        first = next(iter(draw_network().state_dict()))
        state = {key: one for key, one in state.items() if key not in (first, *change)}
        message = f"lacks {first}"
    save_file({key: one for key, one in state.items() if one is not None}, path)
    spec = find_spec(ARCHITECTURE, str(path))
    with pytest.raises(BackboneError, match=f"not the weights of {ARCHITECTURE}: it {message}"):
        make_backbone(spec)


def test_what_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    """Pickles, texts, other inputs and unknown names give one line with a remedy."""
    torch.save({}, tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_text("no tensors")
    for name, weights, message in (
        (ARCHITECTURE, tmp_path / "x.pth", "only safetensors are read, since other files may run"),
        ("lite0", tmp_path / "x.safetensors", "for the architecture of lite0 name tf_efficient"),
        ("resnet1", tmp_path / "x.safetensors", "unknown backbone 'resnet1'"),
        (ARCHITECTURE, tmp_path / "y.safetensors", "cannot be read: No such file"),
        (f"local-dir:{tmp_path}", None, "has no config.json"),
    ):
        with pytest.raises(BackboneError, match=message):
            find_spec(name, None if weights is None else str(weights))
    with pytest.raises(BackboneError, match="no safetensors"):
        make_backbone(find_spec(ARCHITECTURE, str(tmp_path / "x.safetensors")))
    config = folder / "config.json"
    record = json.loads(config.read_text())
    for size, architecture, message in (
        ([3, 96, 64], ARCHITECTURE, "3 channels of 96 x 64 pixels; expected 3 channels of a sq"),
        ([3, 96, 96], "resnet9000", "timm cannot make it: Unknown model"),
    ):
        record["pretrained_cfg"]["input_size"] = size
        config.write_text(json.dumps({**record, "architecture": architecture}))
        with pytest.raises(BackboneError, match=message):
            find_spec(f"local-dir:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="no file of safetensors in it"):
        find_spec(f"local-dir:{folder}")


def test_a_spec_survives_a_run(folder: Path) -> None:
    """The transform is that of training, whatever the folder says later."""
    spec = replace(find_spec(f"local-dir:{folder}"), mean=(0.5, 0.5, 0.5))
    assert np.allclose(make_backbone(spec).mean.numpy(), 127.5)


def configure(folder: Path, **changed: object) -> None:
    """Change the transform that a folder's configuration asks for."""
    config = folder / "config.json"
    record = json.loads(config.read_text())
    record["pretrained_cfg"] |= changed
    config.write_text(json.dumps(record))


@pytest.mark.parametrize("shape", [(150, 100), (100, 150), (60, 45), (400, 20)])
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct", "interpolation"),
    [
        ("center", 0.875, "bilinear"),
        ("center", 1.0, "bicubic"),
        ("border", 0.9, "lanczos"),
        ("squash", 0.8, "bicubic"),
    ],
)
def test_pixels_are_those_of_timm(
    crop_mode: str,
    crop_pct: float,
    interpolation: str,
    shape: tuple[int, int],
    folder: Path,
    tmp_path: Path,
) -> None:
    """Cut, borders and filter are those that timm makes of the same configuration, to the bit."""
    configure(folder, crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation)
    photo = draw_photo(tmp_path / "a.png", shape)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    wanted = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    backbone = make_backbone(find_spec(f"local-dir:{folder}"))
    source = make_source(backbone, engine=EngineName.TORCH)
    (found,) = source.stream([as_image(tmp_path / "a.png")])
    with torch.inference_mode():
        expected = network(wanted(photo)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    spec = find_spec(f"local-dir:{folder}")
    pixels = load_pixels(as_image(tmp_path / "a.png"), 96, spec.framing)
    colours = (wanted(photo) * torch.tensor(spec.std)[:, None, None]).permute(1, 2, 0)
    colours = 255 * (colours + torch.tensor(spec.mean))
    assert (colours.round().byte().numpy() == pixels).all()


def draw_photo(path: Path, shape: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    photo = small.resize(shape, Image.Resampling.BICUBIC)
    photo.save(path)
    return photo


def test_very_long_images_are_cut_first(folder: Path, tmp_path: Path) -> None:
    """The middle of a strip is the same as that of its middle, and takes little memory."""
    configure(folder, crop_mode="center", crop_pct=0.875)
    framing = find_spec(f"local-dir:{folder}").framing
    strip = draw_photo(tmp_path / "a.png", (8000, 20))
    whole = load_pixels(as_image(tmp_path / "a.png"), 96, framing)
    strip.crop((3000, 0, 5000, 20)).save(tmp_path / "b.png")
    assert (load_pixels(as_image(tmp_path / "b.png"), 96, framing) == whole).all()


def test_another_transform_is_another_input(folder: Path) -> None:
    """Features of another cut, filter or colour of borders are cached apart."""
    keys = set()
    for change in (
        {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bilinear"},
        {"crop_pct": 0.8},
        {"crop_mode": "squash"},
        {"interpolation": "bicubic"},
    ):
        configure(folder, **change)
        keys.add(make_source(make_backbone(find_spec(f"local-dir:{folder}"))).key)  # type: ignore[attr-defined]
    assert len(keys) == 4
    squeezed = replace(find_spec(f"local-dir:{folder}"), framing=None)  # of an older run
    assert make_source(make_backbone(squeezed)).key not in keys  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"crop_mode": "corner"},
            "cannot be used: crop_mode 'corner': expected one of center, border",
        ),
        (
            {"interpolation": "random"},
            "cannot be used: interpolation 'random': expected one of nearest",
        ),
        ({"crop_pct": 1.5}, "cannot be used: crop_pct 1.5: expected above 0, at most 1"),
        ({"crop_pct": "much"}, "cannot be used: '<' not supported"),
    ],
)
def test_transforms_that_cannot_be_used(
    change: dict[str, object], message: str, folder: Path
) -> None:
    configure(folder, **change)
    with pytest.raises(BackboneError, match=message):
        find_spec(f"local-dir:{folder}")


def test_a_map_needs_the_whole_image(folder: Path, tmp_path: Path) -> None:
    """Where features come from can be shown only if the network sees all of the image."""
    draw_photo(tmp_path / "a.png", (60, 40))
    for change, is_whole in (
        ({"crop_mode": "center", "crop_pct": 0.9}, False),
        ({"crop_mode": "squash", "crop_pct": 1.0}, True),
    ):
        configure(folder, **change)
        source = make_source(make_backbone(find_spec(f"local-dir:{folder}")))
        assert isinstance(source, FeatureExtractor)
        if is_whole:
            assert len(source.maps(as_image(tmp_path / "a.png"))) == 1
        else:
            with pytest.raises(BackboneError, match="sees a part of the image, or borders"):
                source.maps(as_image(tmp_path / "a.png"))


def test_another_input_size(
    folder: Path, loopback_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """@SIZE goes with weights of one's own, beside revisions and folders that have an @."""
    path = tmp_path / "mine.safetensors"
    save_file(draw_network().state_dict(), path)
    for name, weights in (
        (f"{ARCHITECTURE}@128", str(path)),
        (f"local-dir:{folder}@128", None),
        ("hf-hub:org/net@128", None),
        ("hf-hub:org/net@main@128", None),
    ):
        spec = find_spec(name, weights)
        assert (spec.name, spec.size_px) == (name, 128)
        assert spec.framing is not None
        require_same_features(make_backbone(spec), 128)
    with pytest.raises(BackboneError, match="an input size from 32 to 1024 px after @"):
        find_spec(f"local-dir:{folder}@20")
    called = folder.rename(folder.parent / "net@128")
    assert find_spec(f"local-dir:{called}").size_px == 96
    assert find_spec(f"local-dir:{called}@64").size_px == 64
