"""Engines give what the network gives, and a converted network is kept only as it was made."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

from mlcrf.backbones import engines
from mlcrf.backbones.engines import OpenVinoEngine, TorchEngine, engine_key, make_engine
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
    """What is converted from here on; it all becomes `tiny`, since converting takes seconds."""
    (network,) = kept.iterdir()
    done: list[Backbone] = []

    def convert(backbone: Backbone) -> Any:
        done.append(backbone)
        return engines._load_network(network)

    monkeypatch.setattr(engines, "_convert", convert)
    return done


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
    (whole,) = kept.iterdir()
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
        name: type(make_engine(name, tiny, CPU, cache_dir=kept)).__name__ for name in EngineName
    }
    assert makers == {
        "auto": "OpenVinoEngine",
        "openvino": "OpenVinoEngine",
        "torch": "TorchEngine",
    }
    keys = {name: engine_key(name, CPU) for name in EngineName}
    assert keys[EngineName.AUTO] == keys[EngineName.OPENVINO] != keys[EngineName.TORCH]
    assert openvino.__version__ in keys[EngineName.OPENVINO]
    other = torch.device("cuda")
    assert engine_key(EngineName.AUTO, other) == engine_key(EngineName.TORCH, other)
    assert engine_key(EngineName.TORCH, other) != keys[EngineName.TORCH]


def test_devices_by_name() -> None:
    """`cpu` is found, `auto` is one that works, and rubbish is told with what to try."""
    assert engines.pick_device("cpu") == CPU
    assert torch.ones(1, device=engines.pick_device("auto")).item() == 1
    for name in ("no-such-device", "cuda:99"):
        with pytest.raises(BackboneError, match=f"device '{name}' cannot be used here: .*try cpu"):
            engines.pick_device(name)


def test_the_converter_keeps_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a word on either stream, also where our own command was given --verbose."""
    monkeypatch.setattr("sys.argv", ["mlcrf", "train", "--verbose"])
    before = logging.root.manager.disable
    engines._convert(make_backbone(find_spec("tiny"), seed=0))
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == before
