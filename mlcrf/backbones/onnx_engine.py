"""A frozen backbone run by ONNX Runtime on the CPU; tracing modules to ONNX."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlcrf.atomic import read_sealed, write_sealed
from mlcrf.backbones.registry import Backbone
from mlcrf.errors import BackboneError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # of 2022: what runtimes of the last years know


class OnnxEngine:
    """Runs whole batches side by side.

    Args:
        cache_dir: where the traced network is kept, since tracing takes 10 to 30 s.
        num_threads: what it runs on; all cores if None.
    """

    def __init__(
        self, backbone: Backbone, cache_dir: Path | None, num_threads: int | None = None
    ) -> None:
        self._session = open_session(_traced(backbone, cache_dir), num_threads)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D)."""
        result: NDArray[np.float32] = self._session.run(["features"], {"pixels": pixels})[0]
        return result


def has_onnxruntime() -> bool:
    """Whether all is installed that `OnnxEngine` needs."""
    return not _missing()


def require_onnxruntime() -> None:
    """Say how to install what tracing and running need.

    Raises:
        BackboneError: a package is missing.
    """
    if missing := _missing():
        raise BackboneError(
            f"ONNX needs {', '.join(missing)}: install them with `pip install 'mlcrf[onnx]'`"
        )


def open_session(model: bytes | Path, num_threads: int | None = None) -> Any:
    """ONNX Runtime for a model on the CPU; what it folds is no news to a user."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = num_threads or 0  # 0: all cores
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def trace(
    module: nn.Module,
    example: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any],
    name: str,
) -> Any:
    """A module as an ONNX model (`ModelProto`), weights inside.

    Args:
        example: what the module is called with, each (2, ...).
        inputs, outputs: how they are called in the model.
        dynamic_shapes: which lengths may vary, as `torch.export` takes it.
        name: of the backbone, for the error.

    Raises:
        BackboneError: the exporter of torch cannot do it.
    """
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(example),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic_shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise BackboneError(
            f"backbone {name!r}: torch cannot export it to ONNX: {reason}"
        ) from error
    assert program is not None, "the exporter returns its program"
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")  # where in the source a node comes from
    del model.metadata_props[:]
    return model


def _missing() -> list[str]:
    return [name for name in _NEEDED if find_spec(name) is None]


def _traced(backbone: Backbone, cache_dir: Path | None) -> bytes:
    """The network as ONNX, from the cache if it was traced before."""
    require_onnxruntime()
    version = torch.__version__.partition("+")[0]
    name = f"network-{backbone.fingerprint()[:32]}-onnx-torch-{version}"
    kept = cache_dir / name if cache_dir else None
    if kept and (content := read_sealed(kept)) is not None:
        return content
    size = backbone.spec.size_px
    example = [torch.zeros(2, size, size, 3, dtype=torch.uint8)]
    model = trace(
        backbone.cpu().eval(),
        example,
        inputs=["pixels"],
        outputs=["features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        name=backbone.spec.name,
    )
    traced: bytes = model.SerializeToString()
    if kept:
        write_sealed(kept, traced)
    return traced


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what the exporter logs of its passes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
