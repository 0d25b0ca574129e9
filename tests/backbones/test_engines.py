"""Engines give what the network gives, and a converted network is kept only as it was made."""

import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

from mlcrf.backbones import engines, openvino_engine
from mlcrf.backbones.engines import TorchEngine, engine_key, make_engine
from mlcrf.backbones.openvino_engine import OpenVinoEngine
from mlcrf.backbones.registry import Backbone, find_spec, make_backbone
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError

CPU = torch.device("cpu")


def random_pixels(count: int, size_px: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)


def assert_equal(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """The same numbers but for rounding: 1e-4 of the largest."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float32
    assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.fixture
def conversions(kept: Path, monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """Networks converted from here on; all become `tiny`, since converting takes seconds."""
    (network,) = kept.glob("*-openvino-*")
    done: list[Backbone] = []

    def convert(backbone: Backbone) -> Any:
        done.append(backbone)
        return openvino_engine._load_network(network)

    monkeypatch.setattr(openvino_engine, "_convert", convert)
    return done


def test_openvino_reports_nothing_to_its_makers() -> None:
    """Imports and conversions: its own stand-in takes the place of the package that reports."""
    code = (
        "import mlcrf.backbones.engines, openvino, sys\n"
        "from openvino.tools.ovc import convert_impl, main, telemetry_utils, utils\n"
        "print({one.tm.__name__ for one in (convert_impl, main, telemetry_utils, utils)})\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'openvino.tools.ovc.telemetry_stub'}", "[]"]


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_openvino_equals_torch(tiny: Backbone, kept: Path, count: int) -> None:
    """Random pixels in batches of any length give the features that torch gives, in order."""
    pixels = random_pixels(count, 64)
    expected = TorchEngine(tiny, CPU)(pixels)
    assert expected.shape == (count, 128)
    assert len(np.unique(expected, axis=0)) == count, "the order would not be seen"
    assert_equal(OpenVinoEngine(tiny, kept)(pixels), expected)


def test_openvino_equals_torch_for_lite0(tmp_path: Path) -> None:
    """The real network too gives the same features, converted and read again."""
    backbone = make_backbone(find_spec("lite0"))
    pixels = random_pixels(3, 224)
    expected = TorchEngine(backbone, CPU)(pixels)
    assert_equal(OpenVinoEngine(backbone, tmp_path)(pixels), expected)
    assert_equal(OpenVinoEngine(backbone, tmp_path)(pixels), expected)


def test_engine_is_the_network(tiny: Backbone) -> None:
    """The torch engine gives what the network gives picture by picture."""
    pixels = random_pixels(3, 64)
    with torch.inference_mode():
        rows = [tiny(torch.from_numpy(pixels[i : i + 1])).numpy()[0] for i in range(3)]
    assert_equal(TorchEngine(tiny, CPU)(pixels), np.stack(rows))


def test_one_call_leaves_nothing_for_the_next(tiny: Backbone, kept: Path) -> None:
    """A short batch after a long one has no rows of it, and earlier results stay as they were."""
    engine = OpenVinoEngine(tiny, kept)
    pixels = random_pixels(9, 64)
    first = engine(pixels)
    copy = first.copy()
    second = engine(pixels[4:6])
    assert second.shape == (2, 128)
    assert_equal(second, copy[4:6])
    assert (first == copy).all()


def test_converted_once(tiny: Backbone, tmp_path: Path, conversions: list[Backbone]) -> None:
    """The second engine reads what the first converted; other weights are converted too."""
    OpenVinoEngine(tiny, tmp_path)
    OpenVinoEngine(tiny, tmp_path)
    assert len(conversions) == 1
    OpenVinoEngine(make_backbone(find_spec("tiny"), seed=1), tmp_path)
    assert len(conversions) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_converted_without_a_cache(tiny: Backbone, conversions: list[Backbone]) -> None:
    """Without a folder the network is converted and nothing is kept."""
    assert OpenVinoEngine(tiny, None)(random_pixels(1, 64)).shape == (1, 128)
    assert len(conversions) == 1


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """One bit near the end, among the weights, where nothing else would notice."""
    changed = bytearray(content)
    changed[-400] ^= 0x40
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [cut, flip, lambda content: b"", lambda content: b"<xml/>", lambda content: b"\0" * 99],
)
def test_damaged_networks_are_converted_anew(
    tiny: Backbone,
    kept: Path,
    tmp_path: Path,
    conversions: list[Backbone],
    damage: Callable[[bytes], bytes],
) -> None:
    """A kept network that is cut off, changed or empty is replaced by a good one."""
    (whole,) = kept.glob("*-openvino-*")
    path = tmp_path / whole.name
    path.write_bytes(damage(whole.read_bytes()))
    pixels = random_pixels(2, 64)
    assert_equal(OpenVinoEngine(tiny, tmp_path)(pixels), TorchEngine(tiny, CPU)(pixels))
    assert len(conversions) == 1
    assert [file.name for file in tmp_path.iterdir()] == [whole.name]
    OpenVinoEngine(tiny, tmp_path)
    assert len(conversions) == 1, "what was put in its place is good"


def test_choice_of_engine(tiny: Backbone, kept: Path) -> None:
    """AUTO is OpenVINO on a CPU; names that give other bits have other keys."""
    makers = {
        name.value: type(make_engine(name, tiny, CPU, cache_dir=kept)).__name__
        for name in EngineName
        if name is not EngineName.TORCH_BFLOAT16
    }
    assert makers == {
        "auto": "OpenVinoEngine",
        "openvino": "OpenVinoEngine",
        "openvino-bfloat16": "OpenVinoEngine",
        "torch": "TorchEngine",
    }
    keys = {name: engine_key(name, CPU) for name in EngineName}
    assert keys[EngineName.AUTO] == keys[EngineName.OPENVINO]
    assert len(set(keys.values())) == len(EngineName) - 1
    assert openvino.__version__ in keys[EngineName.OPENVINO]
    other = torch.device("cuda")
    assert engine_key(EngineName.AUTO, other) == engine_key(EngineName.TORCH, other)
    assert engine_key(EngineName.TORCH, other) != keys[EngineName.TORCH]


def test_bfloat16_is_near(tiny: Backbone, kept: Path) -> None:
    """Half as many bits: not the same features, and not far away either."""
    pixels = random_pixels(5, 64)
    expected = TorchEngine(tiny, CPU)(pixels)
    found = TorchEngine(tiny, CPU, bfloat16=True)(pixels)
    assert found.dtype == np.float32
    apart = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-5 < apart < 0.02
    compiled = make_engine(EngineName.OPENVINO_BFLOAT16, tiny, CPU, cache_dir=kept)(pixels)
    assert np.abs(compiled - expected).max() <= 0.02 * np.abs(expected).max()


def test_bfloat16_of_torch_is_refused_on_a_cpu(tiny: Backbone) -> None:
    """Where it is slower than float32; the message names the engine to use."""
    with pytest.raises(BackboneError, match=r"is for GPUs; .* use openvino-bfloat16"):
        make_engine(EngineName.TORCH_BFLOAT16, tiny, CPU)


class _Off:
    """An engine whose features are off by a share, or that cannot be made."""

    def __init__(self, share: float | None) -> None:
        self._share = share

    def __call__(self, backbone: Backbone, *_: object, **__: object) -> Any:
        if self._share is None:
            raise RuntimeError("no such\ninstruction")
        engine, factor = TorchEngine(backbone, CPU), np.float32(1 + self._share)
        return lambda pixels: engine(pixels) * factor


def test_auto_passes_over_engines_that_err(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by more than the tolerance, NaN, or not to be compiled: torch, and it is said."""
    said: list[str] = []
    make = partial(make_engine, EngineName.AUTO, tiny, CPU, on_fallback=said.append)
    monkeypatch.setattr(engines, "OpenVinoEngine", _Off(1e-5))
    pixels = random_pixels(2, 64)
    expected = TorchEngine(tiny, CPU)(pixels)
    assert 0 < np.abs(make()(pixels) - expected).max() < 2e-5 * np.abs(expected).max()
    assert said == []
    for share in (1e-2, float("nan"), None):
        monkeypatch.setattr(engines, "OpenVinoEngine", _Off(share))
        assert isinstance(make(), TorchEngine)
    assert [one.split(";")[0] for one in said] == [
        "openvino gives features that are 1.0e-02 off those of torch",
        "openvino gives features that are nan off those of torch",
        "openvino cannot run the network: no such instruction",
    ]


def test_devices_by_name() -> None:
    """`cpu` is found, `auto` is one that works, and rubbish is told with what to try."""
    assert engines.pick_device("cpu") == CPU
    assert torch.ones(1, device=engines.pick_device("auto")).item() == 1
    for name in ("no-such-device", "cuda:99"):
        with pytest.raises(BackboneError, match=f"device '{name}' cannot be used here: .*try cpu"):
            engines.pick_device(name)
    with pytest.raises(BackboneError, match=r"unknown device 'cua'; did you mean 'cuda'\?"):
        engines.pick_device("cua")


def test_the_converter_keeps_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a word on either stream, also where our own command was given --verbose."""
    monkeypatch.setattr("sys.argv", ["mlcrf", "train", "--verbose"])
    before = logging.root.manager.disable
    openvino_engine._convert(make_backbone(find_spec("tiny"), seed=0))
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == before
