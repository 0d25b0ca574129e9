"""Export a run to one ONNX file, which is compared with the run before it is kept."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from mlcrf.atomic import replacing, require_ending
from mlcrf.checkpoint import Run
from mlcrf.choices import EngineName, GraphInference
from mlcrf.errors import BackboneError, MlcrfError, reason_of
from mlcrf.export.comparison import Pixels, differences, run_file, run_graph, run_itself
from mlcrf.export.tagger_module import OUTPUTS, TaggerModule, choose_marginals
from mlcrf.version import __version__

TOLERANCE = 1e-4  # of a probability; float32 in another order of operations costs about 1e-5
_LARGEST_BYTES = 2**31 - 2**24  # size limit of a protobuf file, minus room for the graph

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # of 2022, which current runtimes support


@dataclass(frozen=True)
class ExportReport:
    """The exported file, and how it compares with the run; differences are of probabilities.

    Attributes:
        inputs: name -> side of the square images, in pixels.
        inference, own_inference: method of the graph, and of the run itself.
        num_images: number of images compared.
        rounding: largest difference between onnxruntime and torch, over both outputs.
        largest_gap, mean_gap: difference between marginals of the graph and of the run.
        independent_gap: mean difference between marginals of the baseline and of the run.
        seconds, own_seconds: time for these images, by onnxruntime and by the run's engine.
        notes: notes for the user.
    """

    path: Path
    num_bytes: int
    inputs: dict[str, int]
    inference: str
    own_inference: str
    num_images: int
    rounding: float
    largest_gap: float
    mean_gap: float
    independent_gap: float
    seconds: float
    own_seconds: float
    notes: tuple[str, ...]


def export_onnx(
    run: Run,
    path: Path,
    images: Callable[[Sequence[int]], Pixels],
    *,
    inference: GraphInference = GraphInference.AUTO,
    max_exact_labels: int = 24,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    engine: EngineName = EngineName.AUTO,
    cache_dir: Path | None = None,
) -> ExportReport:
    """Write backbone, head and CRF as one graph, if onnxruntime and mlcrf agree.

    Input `pixels`, uint8 (N, H, W, 3); outputs `marginals` and `independent`, float32 (N, L). A
    backbone of several networks with pixels of different sizes has an input `pixels_SIZE` for each
    size. Metadata: `labels` (JSON), `model_digest`, `mlcrf_version`, `inference`, `backbone`,
    `preparation`.

    Args:
        images: sizes -> pixels of images for the comparison.
        tolerance: largest accepted difference between runtimes, and from the run's own inference
            if both are exact or the same sweeps of mean field.
        engine: engine of the run's network in the comparison.

    Raises:
        MlcrfError: a package is missing, the file exists or cannot be written, the
            weights are too large for one file, or a difference is above the tolerance.
        RunError, TooManyLabelsError: see `choose_marginals`.
        BackboneError: the network cannot be exported.

    Cost: tracing takes about half a minute for the default network.
    """
    _require_packages()
    require_ending(path, (".onnx",))
    if path.exists() and not overwrite:
        raise MlcrfError(f"{path}: exists already; choose another --onnx or --overwrite")
    candidates = choose_marginals(run, inference, max_exact_labels=max_exact_labels)
    backbone = run.make_backbone().requires_grad_(False)
    graphs = [TaggerModule(run, backbone, one).eval() for one in candidates]
    pixels = images(tuple(graphs[0].inputs.values()))
    feed = {name: pixels[size] for name, size in graphs[0].inputs.items()}
    expected, own_seconds = run_itself(run, backbone, pixels, engine, cache_dir)
    graph = min(graphs, key=lambda one: differences(run_graph(one, feed)[0], expected)[1])
    model = _trace(graph, run)
    with replacing(path) as temporary:
        temporary.write_bytes(model)
        found, seconds = run_file(temporary, feed)
        ours = run_graph(graph, feed)
        rounding = max(differences(*pair)[0] for pair in zip(found, ours, strict=True))
        _require(rounding, tolerance, path, "onnxruntime and torch differ")
        largest, mean = differences(found[0], expected)
        own = run.make_inference()
        if _same_inference(graph, own.name):
            _require(largest, tolerance, path, f"the graph and the run's own {own.name} differ")
    independent_gap = differences(found[1], expected)[1]
    return ExportReport(
        path,
        len(model),
        graph.inputs,
        graph.inference,
        own.name,
        len(expected),
        rounding,
        largest,
        mean,
        independent_gap,
        seconds,
        own_seconds,
        _notes(run, graph, mean, independent_gap),
    )


def _require_packages() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BackboneError(
            f"ONNX needs {', '.join(missing)}: install them with `pip install 'mlcrf[onnx]'`"
        )


def _require(difference: float, tolerance: float, path: Path, what: str) -> None:
    if not difference <= tolerance:  # true for NaN too
        raise MlcrfError(
            f"{path}: not written: {what} by {difference:.2g} in a probability, more than "
            f"{tolerance:g}; raise --tolerance if that is near enough for you"
        )


def _same_inference(graph: TaggerModule, own: str) -> bool:
    if graph.is_exact:
        return own in ("independent", "exact", "junction-tree", "scenes")
    return graph.marginals.name.startswith(f"{own},")


def _trace(graph: TaggerModule, run: Run) -> bytes:
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    if size > _LARGEST_BYTES:
        raise MlcrfError(
            f"{run.path}: its weights take {size / 2**30:.1f} GB; the limit of an ONNX file is 2 GB"
        )
    example = tuple(
        torch.zeros(2, side, side, 3, dtype=torch.uint8) for side in graph.inputs.values()
    )
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(graph.inputs),
                output_names=list(OUTPUTS),
                dynamic_shapes={"pixels": tuple({0: batch} for _ in graph.inputs)},
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = reason_of(error.__cause__ or error)[:200]
        raise BackboneError(
            f"backbone {run.backbone_spec.name!r}: torch cannot export it to ONNX: {reason}"
        ) from error
    assert program is not None, "the exporter returns its program"
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")  # source locations of nodes
    del model.metadata_props[:]
    for key, value in _metadata(graph, run).items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _metadata(graph: TaggerModule, run: Run) -> dict[str, str]:
    sizes = " and ".join(f"{size} x {size}" for size in graph.inputs.values())
    framing = run.backbone_spec.framing
    how = "squeezed to {} by bicubic interpolation" if framing is None else f"{framing}, to {{}}"
    return {
        "labels": json.dumps(list(run.labels)),
        "model_digest": run.digest,
        "mlcrf_version": __version__,
        "inference": graph.inference,
        "backbone": run.backbone_spec.title,
        "preparation": f"RGB, upright by EXIF, {how.format(sizes)}",
    }


def _notes(run: Run, graph: TaggerModule, gap: float, independent_gap: float) -> tuple[str, ...]:
    notes = []
    if not graph.is_exact and gap > independent_gap:
        notes.append(
            f"{graph.inference} is farther from the run's own inference than its baseline is: take "
            "the output `independent`, or mlcrf itself"
        )
    if run.settings.albums:
        notes.append("the graph treats each image separately; the run has learned from albums")
    return tuple(notes)
