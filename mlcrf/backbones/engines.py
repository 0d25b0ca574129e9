"""What runs a frozen backbone: torch anywhere, OpenVINO or ONNX Runtime on CPUs."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.onnx_engine import OnnxEngine, has_onnxruntime, require_onnxruntime
from mlcrf.backbones.openvino_engine import OpenVinoEngine
from mlcrf.backbones.registry import Backbone
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError

TOLERANCE = 1e-4  # of the largest feature: what AUTO's engine may be off from torch in float32
_CHECKED = 2  # pictures that this is checked on


class Engine(Protocol):
    """A compiled backbone."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D) of pixels (N, H, W, 3)."""
        ...


class TorchEngine:
    """Runs the network as it is, channels last.

    Args:
        bfloat16: multiply in bfloat16 (automatic mixed precision); features of lite0 are then up
            to 9 % of the largest one off.
    """

    def __init__(self, backbone: Backbone, device: torch.device, *, bfloat16: bool = False) -> None:
        self._device, self._bfloat16 = device, bfloat16
        self._backbone = backbone.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D)."""
        images = torch.from_numpy(pixels).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            features = self._backbone(images)
        result: NDArray[np.float32] = features.float().cpu().numpy()
        return result


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the accelerator where torch has one, else the CPU.

    Raises:
        BackboneError: torch does not know it or cannot use it here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device {name!r} cannot be used here: {reason}; try cpu") from error
    return device


def engine_key(name: EngineName, device: torch.device) -> str:
    """Names the engine and precision: no two give each other's bits.

    Raises:
        BackboneError: ONNX Runtime is asked for and not installed.
    """
    torch_key = f"torch-{torch.__version__}-{device.type}"
    match _candidates(name, device)[0]:
        case EngineName.OPENVINO:
            return f"{_openvino_key()}-float32"
        case EngineName.OPENVINO_BFLOAT16:
            return f"{_openvino_key()}-bfloat16"
        case EngineName.ONNXRUNTIME:
            require_onnxruntime()
            return f"onnxruntime-{version('onnxruntime')}-float32"
        case EngineName.TORCH_BFLOAT16:
            return f"{torch_key}-bfloat16"
        case _:
            return f"{torch_key}-float32"


def make_engine(
    name: EngineName,
    backbone: Backbone,
    device: torch.device,
    *,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    on_fallback: Callable[[str], None] = lambda reason: None,
) -> Engine:
    """Compile a backbone.

    AUTO takes torch on accelerators. On the CPU it takes OpenVINO, the fastest that we measured,
    if that gives the features that torch gives for two drawn pictures, within `TOLERANCE`; then
    ONNX Runtime where it is installed, and at last torch.

    Args:
        cache_dir: where converted networks are kept.
        num_threads: those of OpenVINO and ONNX Runtime, on all cores if None; of torch those that
            it has in any case.
        on_fallback: told in one line why AUTO passes over an engine that `engine_key` names.

    Raises:
        BackboneError: the engine that was asked for is not installed, or cannot run the network.
    """
    candidates = _candidates(name, device)
    for candidate in candidates[:-1]:
        try:
            engine = _compile(candidate, backbone, device, cache_dir, num_threads)
            apart = _difference(engine, TorchEngine(backbone, device), backbone.spec.size_px)
        except (RuntimeError, BackboneError) as error:  # what compilers raise of a network
            reason = f"cannot run the network: {' '.join(str(error).split())[:200]}"
        else:
            if apart <= TOLERANCE:
                return engine
            reason = f"gives features that are {apart:.1e} off those of torch"
        on_fallback(f"{candidate.value} {reason}; passed over for another engine")
    return _compile(candidates[-1], backbone, device, cache_dir, num_threads)


def _candidates(name: EngineName, device: torch.device) -> list[EngineName]:
    """What to try, in this order."""
    if name is not EngineName.AUTO:
        return [name]
    if device.type != "cpu":
        return [EngineName.TORCH]
    onnx = [EngineName.ONNXRUNTIME] if has_onnxruntime() else []
    return [EngineName.OPENVINO, *onnx, EngineName.TORCH]


def _compile(
    name: EngineName,
    backbone: Backbone,
    device: torch.device,
    cache_dir: Path | None,
    num_threads: int | None,
) -> Engine:
    match name:
        case EngineName.OPENVINO | EngineName.OPENVINO_BFLOAT16:
            bfloat16 = name is EngineName.OPENVINO_BFLOAT16
            return OpenVinoEngine(backbone, cache_dir, num_threads, bfloat16=bfloat16)
        case EngineName.ONNXRUNTIME:
            return OnnxEngine(backbone, cache_dir, num_threads)
        case EngineName.TORCH | EngineName.TORCH_BFLOAT16:
            return TorchEngine(backbone, device, bfloat16=name is EngineName.TORCH_BFLOAT16)
        case EngineName.AUTO:
            raise AssertionError("AUTO stands for others")
        case _:
            assert_never(name)


def _difference(engine: Engine, reference: Engine, size_px: int) -> float:
    """The largest between features of drawn pictures, over the largest feature; NaN if any is."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_CHECKED, size_px, size_px, 3), dtype=np.uint8)
    pixels[0] = np.linspace(0, 255, size_px, dtype=np.uint8)[:, None, None]  # smooth, then noise
    expected = reference(pixels)
    return float(np.abs(engine(pixels) - expected).max() / np.abs(expected).max())


def _openvino_key() -> str:
    import openvino

    return f"openvino-{openvino.__version__}"
