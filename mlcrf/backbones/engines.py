"""Engines that run a frozen backbone: torch on any device, OpenVINO on CPUs."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.deferred import DeferredBackbone
from mlcrf.backbones.openvino_engine import OpenVinoEngine, is_known_sound, keep_as_sound
from mlcrf.backbones.registry import Backbone
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError
from mlcrf.hints import did_you_mean

TOLERANCE = 1e-4  # largest difference from torch that AUTO accepts, relative to the largest feature
_CHECKED = 2  # number of images compared


class Engine(Protocol):
    """A compiled backbone."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D) of pixels (N, H, W, 3)."""
        ...


class TorchEngine:
    """The network itself, channels last.

    Args:
        bfloat16: multiply in bfloat16 (automatic mixed precision); features of lite0 then differ
            by up to 9 % of the largest one.
    """

    def __init__(self, backbone: Backbone, device: torch.device, *, bfloat16: bool = False) -> None:
        self._device, self._bfloat16 = device, bfloat16
        self._backbone = backbone.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            features = self._backbone(images)
        result: NDArray[np.float32] = features.float().cpu().numpy()
        return result


def pick_device(name: str) -> torch.device:
    """Return the device with this name; `auto` is the accelerator if there is one, else the CPU.

    Raises:
        BackboneError: torch does not know or cannot use the device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        hint = did_you_mean(name, ("auto", "cpu", "cuda", "mps", "xpu"))
        if hint and name.partition(":")[0] not in hint:
            raise BackboneError(f"unknown device {name!r}{hint}") from error
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device {name!r} cannot be used here: {reason}; try cpu") from error
    return device


def engine_key(name: EngineName, device: torch.device) -> str:
    """Return a key of engine and precision; features with the same key have the same bits.

    Those of a network whose last stage was just trained differ by rounding, at full precision; see
    `FeatureExtractor.keep`.
    """
    torch_key = f"torch-{torch.__version__}-{device.type}"
    match _candidates(name, device)[0]:
        case EngineName.OPENVINO:
            return f"{_openvino_key()}-float32"
        case EngineName.OPENVINO_BFLOAT16:
            return f"{_openvino_key()}-bfloat16"
        case EngineName.TORCH_BFLOAT16:
            return f"{torch_key}-bfloat16"
        case _:
            return f"{torch_key}-float32"


def has_full_precision(name: EngineName, device: torch.device) -> bool:
    """Return whether the engine computes in float32."""
    return engine_key(name, device).endswith("-float32")


def make_engine(
    name: EngineName,
    backbone: Backbone | DeferredBackbone,
    device: torch.device,
    *,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    on_fallback: Callable[[str], None] = lambda reason: None,
) -> Engine:
    """Compile a backbone.

    AUTO is torch on accelerators. On the CPU it is OpenVINO, the fastest engine that we measured,
    if its features of two drawn images equal those of torch within `TOLERANCE`, else torch. That
    is tried once for a network, a version of OpenVINO and a processor, if there is a cache folder.

    Args:
        cache_dir: folder for converted networks.
        num_threads: threads of OpenVINO; all cores if None.
        on_fallback: called with the reason why AUTO does not use OpenVINO.

    Raises:
        BackboneError: bfloat16 of torch is requested on a CPU, where it is slower than float32.
    """
    candidates = _candidates(name, device)
    for candidate in candidates[:-1]:
        try:
            engine = _compile(candidate, backbone, device, cache_dir, num_threads)
            if is_known_sound(backbone, cache_dir):
                return engine
            reference = TorchEngine(backbone.built(), device)
            apart = _difference(engine, reference, backbone.spec.size_px)
        except RuntimeError as error:  # raised by compilers
            reason = f"cannot run the network: {' '.join(str(error).split())[:200]}"
        else:
            if apart <= TOLERANCE:
                keep_as_sound(backbone, cache_dir)
                return engine
            reason = f"gives features that are {apart:.1e} off those of torch"
        on_fallback(f"{candidate.value} {reason}; another engine is used")
    return _compile(candidates[-1], backbone, device, cache_dir, num_threads)


def _candidates(name: EngineName, device: torch.device) -> list[EngineName]:
    """Return the engines to try, in order."""
    if name is not EngineName.AUTO:
        return [name]
    if device.type != "cpu":
        return [EngineName.TORCH]
    return [EngineName.OPENVINO, EngineName.TORCH]


def _compile(
    name: EngineName,
    backbone: Backbone | DeferredBackbone,
    device: torch.device,
    cache_dir: Path | None,
    num_threads: int | None,
) -> Engine:
    match name:
        case EngineName.OPENVINO | EngineName.OPENVINO_BFLOAT16:
            bfloat16 = name is EngineName.OPENVINO_BFLOAT16
            return OpenVinoEngine(backbone, cache_dir, num_threads, bfloat16=bfloat16)
        case EngineName.TORCH:
            return TorchEngine(backbone.built(), device)
        case EngineName.TORCH_BFLOAT16 if device.type == "cpu":
            raise BackboneError(
                "--engine torch-bfloat16 is for GPUs; on a CPU it is slower than torch, use "
                "openvino-bfloat16"
            )
        case EngineName.TORCH_BFLOAT16:
            return TorchEngine(backbone.built(), device, bfloat16=True)
        case EngineName.AUTO:
            raise AssertionError("AUTO is not an engine")
        case _:
            assert_never(name)


def _difference(engine: Engine, reference: Engine, size_px: int) -> float:
    """Return the largest difference of features as a share of the largest; NaN if any is NaN."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_CHECKED, size_px, size_px, 3), dtype=np.uint8)
    pixels[0] = np.linspace(0, 255, size_px, dtype=np.uint8)[:, None, None]  # smooth, then noise
    expected = reference(pixels)
    return float(np.abs(engine(pixels) - expected).max() / np.abs(expected).max())


def _openvino_key() -> str:
    import openvino

    return f"openvino-{openvino.__version__}"
