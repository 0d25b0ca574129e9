"""What runs a frozen backbone: OpenVINO on CPUs, torch elsewhere."""

import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.atomic import write_bytes
from mlcrf.backbones.registry import Backbone
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError


class Engine(Protocol):
    """A compiled backbone."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D) of pixels (N, H, W, 3)."""
        ...


class TorchEngine:
    """Runs the network as it is, channels last."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self._device = device
        self._backbone = backbone.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D)."""
        features = self._backbone(torch.from_numpy(pixels).to(self._device))
        result: NDArray[np.float32] = features.float().cpu().numpy()
        return result


class OpenVinoEngine:
    """Runs the network compiled by OpenVINO for the CPU, in float32 (relative error about 1e-6).

    Args:
        cache_dir: where the converted network is kept, since converting takes 10 to 20 s.
    """

    def __init__(self, backbone: Backbone, cache_dir: Path | None) -> None:
        import openvino

        model = _converted(backbone, cache_dir)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
        compiled = openvino.compile_model(model, "CPU", settings)
        self._parts = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._queue = openvino.AsyncInferQueue(compiled, self._parts)
        self._queue.set_callback(self._keep)
        self._results: dict[int, NDArray[np.float32]] = {}

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D); the batch is cut in parts that run side by side."""
        self._results = {}
        for part, images in enumerate(np.array_split(pixels, min(self._parts, len(pixels)))):
            self._queue.start_async([images], userdata=part)
        self._queue.wait_all()
        return np.concatenate([self._results[part] for part in sorted(self._results)])

    def _keep(self, request: Any, part: int) -> None:
        self._results[part] = request.get_output_tensor(0).data.copy()


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
    """Names the engine and precision: no two give each other's bits."""
    if _uses_openvino(name, device):
        import openvino

        return f"openvino-{openvino.__version__}-float32"
    return f"torch-{torch.__version__}-{device.type}-float32"


def make_engine(
    name: EngineName, backbone: Backbone, device: torch.device, *, cache_dir: Path | None = None
) -> Engine:
    """Compile a backbone. AUTO takes OpenVINO on the CPU and torch elsewhere."""
    if _uses_openvino(name, device):
        return OpenVinoEngine(backbone, cache_dir)
    return TorchEngine(backbone, device)


def _uses_openvino(name: EngineName, device: torch.device) -> bool:
    match name:
        case EngineName.AUTO:
            return device.type == "cpu"
        case EngineName.OPENVINO:
            return True
        case EngineName.TORCH:
            return False
        case _:
            assert_never(name)


def _converted(backbone: Backbone, cache_dir: Path | None) -> Any:
    """The network in OpenVINO's form, from the cache if it was converted before."""
    import openvino

    version = openvino.__version__.partition("-")[0]
    name = f"network-{backbone.fingerprint()[:32]}-openvino-{version}"
    kept = cache_dir / name if cache_dir else None
    if kept and (model := _load_network(kept)) is not None:
        return model
    model = _convert(backbone)
    if kept:
        _save_network(model, kept)
    return model


def _convert(backbone: Backbone) -> Any:
    import openvino

    size = backbone.spec.size_px
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    exported = torch.export.export(
        backbone.cpu().eval(),
        (example,),
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
    )
    with _quiet():
        model = openvino.convert_model(exported)
    model.reshape([-1, size, size, 3])
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what the converter says of operations that it does not know.

    It also prints its arguments where a program was started with --verbose, ours included.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _save_network(model: Any, path: Path) -> None:
    """Write graph and weights to one file with their SHA-256 before them."""
    import openvino

    with TemporaryDirectory() as folder:
        graph = Path(folder) / "network.xml"
        openvino.save_model(model, graph, compress_to_fp16=False)
        content = graph.read_bytes() + b"\0" + graph.with_suffix(".bin").read_bytes()
    write_bytes(path, hashlib.sha256(content).digest() + content)


def _load_network(path: Path) -> Any | None:
    """Load what `_save_network` wrote; None if there is nothing, or not what was written."""
    import openvino

    content = path.read_bytes() if path.is_file() else b""
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    graph, _, weights = content.partition(b"\0")  # XML has no zero bytes
    return openvino.Core().read_model(graph, weights)
