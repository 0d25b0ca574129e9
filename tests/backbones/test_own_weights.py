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
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from mlcrf.backbones.registry import Backbone, Source, find_spec, make_backbone
from mlcrf.backbones.sources import make_source
from mlcrf.errors import BackboneError

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
