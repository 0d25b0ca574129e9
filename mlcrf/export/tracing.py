"""Trace modules to ONNX, and open ONNX files in ONNX Runtime."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlcrf.errors import BackboneError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # of 2022, which current runtimes support


def require_onnxruntime() -> None:
    """Check that the packages for tracing and running are installed.

    Raises:
        BackboneError: a package is missing; the text says how to install it.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BackboneError(
            f"ONNX needs {', '.join(missing)}: install them with `pip install 'mlcrf[onnx]'`"
        )


def open_session(model: Path) -> Any:
    """Load a model in ONNX Runtime, on the CPU and without its warnings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
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
    """Return a module as an ONNX model (`ModelProto`), weights inside.

    Args:
        example: arguments of the module, each (2, ...).
        dynamic_shapes: as in `torch.export`.
        name: name of the backbone for the error.

    Raises:
        BackboneError: torch cannot export it.
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
        part.ClearField("metadata_props")  # source locations of nodes
    del model.metadata_props[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
