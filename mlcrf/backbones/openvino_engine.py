"""A frozen backbone compiled by OpenVINO for the CPU."""

import hashlib
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.atomic import read_sealed, write_sealed
from mlcrf.backbones.deferred import DeferredBackbone
from mlcrf.backbones.registry import Backbone

# OpenVINO tells its makers of every import and conversion, in processes of their own, unless the
# package that does so is missing; None says that it is.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVinoEngine:
    """An engine that runs parts of a batch in parallel.

    Args:
        cache_dir: cache folder for the converted network, since converting takes 10 to 20 s.
        num_threads: number of threads; all cores if None.
        bfloat16: compute in bfloat16 if the CPU supports it, else in float32.
    """

    def __init__(
        self,
        backbone: Backbone | DeferredBackbone,
        cache_dir: Path | None,
        num_threads: int | None = None,
        *,
        bfloat16: bool = False,
    ) -> None:
        import openvino

        model = _converted(backbone, cache_dir)
        precision = "bf16" if bfloat16 else "f32"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        settings["PERFORMANCE_HINT"] = "THROUGHPUT"
        if num_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = num_threads
        compiled = openvino.compile_model(model, "CPU", settings)
        self._parts = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._queue = openvino.AsyncInferQueue(compiled, self._parts)
        self._queue.set_callback(self._keep)
        self._results: dict[int, NDArray[np.float32]] = {}

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D)."""
        self._results = {}
        for part, images in enumerate(np.array_split(pixels, min(self._parts, len(pixels)))):
            self._queue.start_async([images], userdata=part)
        self._queue.wait_all()
        return np.concatenate([self._results[part] for part in sorted(self._results)])

    def _keep(self, request: Any, part: int) -> None:
        self._results[part] = request.get_output_tensor(0).data.copy()


def _converted(backbone: Backbone | DeferredBackbone, cache_dir: Path | None) -> Any:
    """Return the network in OpenVINO's form, from the cache if it was converted before."""
    kept = cache_dir / _name_of(backbone) if cache_dir else None
    if kept and (model := _load_network(kept)) is not None:
        return model
    model = _convert(backbone.built())
    if kept:
        _save_network(model, kept)
    return model


def is_known_sound(backbone: Backbone | DeferredBackbone, cache_dir: Path | None) -> bool:
    """Return whether the engine of a network was found to agree with torch on this processor."""
    return cache_dir is not None and read_sealed(_proof_of(backbone, cache_dir)) is not None


def keep_as_sound(backbone: Backbone | DeferredBackbone, cache_dir: Path | None) -> None:
    """Remember that the engine of a network agrees with torch on this processor."""
    if cache_dir is not None:
        write_sealed(_proof_of(backbone, cache_dir), b"agrees with torch")


def _name_of(backbone: Backbone | DeferredBackbone) -> str:
    import openvino

    version = openvino.__version__.partition("-")[0]
    return f"network-{backbone.fingerprint()[:32]}-openvino-{version}"


def _proof_of(backbone: Backbone | DeferredBackbone, cache_dir: Path) -> Path:
    import openvino

    processor = str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))
    digest = hashlib.sha256(f"{processor} torch {torch.__version__}".encode()).hexdigest()
    return cache_dir / f"{_name_of(backbone)}-sound-{digest[:16]}"


def _convert(backbone: Backbone) -> Any:
    import openvino

    size = backbone.spec.size_px
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    exported = torch.export.export(
        backbone.cpu().eval(), (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}
    )
    with _quiet():
        model = openvino.convert_model(exported)
    model.reshape([-1, size, size, 3])
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter's warnings about unknown operations.

    It also prints its arguments if any program, such as ours, was started with --verbose.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _save_network(model: Any, path: Path) -> None:
    """Write graph and weights to one file."""
    import openvino

    with TemporaryDirectory() as folder:
        graph = Path(folder) / "network.xml"
        openvino.save_model(model, graph, compress_to_fp16=False)
        content = graph.read_bytes() + b"\0" + graph.with_suffix(".bin").read_bytes()
    write_sealed(path, content)


def _load_network(path: Path) -> Any | None:
    """Load a network written by `_save_network`; None if missing or damaged."""
    import openvino

    content = read_sealed(path)
    if content is None:
        return None
    graph, _, weights = content.partition(b"\0")  # XML has no zero bytes
    return openvino.Core().read_model(graph, weights)
