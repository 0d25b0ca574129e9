"""A run as one ONNX file, compared with the run itself before it gets its name."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.atomic import replacing, require_ending
from mlcrf.backbones.engines import make_engine
from mlcrf.backbones.registry import Backbone
from mlcrf.checkpoint import Run
from mlcrf.choices import EngineName, GraphInference
from mlcrf.errors import MlcrfError
from mlcrf.export.graph import TaggerGraph, choose_marginals
from mlcrf.export.pictures import Pixels
from mlcrf.export.tracing import open_session, require_onnxruntime, trace
from mlcrf.version import __version__

OUTPUTS = ("marginals", "independent")
TOLERANCE = 1e-4  # of a probability; float32 in another order of operations costs about 1e-5
_LARGEST_BYTES = 2**31 - 2**24  # what one protobuf file can hold, and room for the graph

Marginals = NDArray[np.float32]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it comes; differences are of probabilities.

    Attributes:
        inputs: by name, the side of the square pictures, in pixels.
        inference, own_inference: inside the graph, and of the run itself.
        num_pictures: compared.
        rounding: largest difference between onnxruntime and torch, over both outputs.
        largest_gap, mean_gap: between the graph's marginals and those of the run's own inference.
        independent_gap: mean between the baseline and the run's own inference.
        seconds, own_seconds: for those pictures, by onnxruntime and by the run's own engine.
        notes: what a user should know.
    """

    path: Path
    num_bytes: int
    inputs: dict[str, int]
    inference: str
    own_inference: str
    num_pictures: int
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
    pictures: Callable[[Sequence[int]], Pixels],
    *,
    inference: GraphInference = GraphInference.AUTO,
    max_exact_labels: int = 24,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    engine: EngineName = EngineName.AUTO,
    cache_dir: Path | None = None,
) -> ExportReport:
    """Write backbone, head and CRF as one graph, if onnxruntime gives what mlcrf gives.

    Input `pixels`, uint8 (N, H, W, 3); outputs `marginals` and `independent`, float32 (N, L). A
    backbone of several networks with pixels of different sizes has an input `pixels_SIZE` for each
    size. Metadata: `labels` (JSON), `model_digest`, `mlcrf_version`, `inference`, `backbone`,
    `preparation`.

    Args:
        pictures: pixels of pictures to compare on, by the sizes that are wanted.
        tolerance: largest difference that is accepted, between runtimes, and also from the run's
            own inference where both are exact or the same sweeps of mean field.
        engine: what runs the run's own network, for the comparison.

    Raises:
        MlcrfError: a package is missing, the file is there already or cannot be written, the
            weights are too large for one file, or a difference is above the tolerance.
        RunError, TooManyLabelsError: see `choose_marginals`.
        BackboneError: the network cannot be exported.

    Cost: tracing takes about half a minute for the default network.
    """
    require_onnxruntime()
    require_ending(path, (".onnx",))
    if path.exists() and not overwrite:
        raise MlcrfError(f"{path}: exists already; choose another --onnx or --overwrite")
    candidates = choose_marginals(run, inference, max_exact_labels=max_exact_labels)
    backbone = run.make_backbone().requires_grad_(False)
    graphs = [TaggerGraph(run, backbone, one).eval() for one in candidates]
    pixels = pictures(tuple(graphs[0].inputs.values()))
    feed = {name: pixels[size] for name, size in graphs[0].inputs.items()}
    expected, own_seconds = _own_marginals(run, backbone, pixels, engine, cache_dir)
    graph = min(graphs, key=lambda one: _differences(_torch(one, feed)[0], expected)[1])
    model = _trace(graph, run)
    with replacing(path) as temporary:
        temporary.write_bytes(model)
        found, seconds = _run_file(temporary, feed)
        ours = _torch(graph, feed)
        rounding = max(_differences(*pair)[0] for pair in zip(found, ours, strict=True))
        _require(rounding, tolerance, path, "onnxruntime and torch differ")
        largest, mean = _differences(found[0], expected)
        own = run.make_inference()
        if _same_inference(graph, own.name):
            _require(largest, tolerance, path, f"the graph and the run's own {own.name} differ")
    independent_gap = _differences(found[1], expected)[1]
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


def _require(difference: float, tolerance: float, path: Path, what: str) -> None:
    if not difference <= tolerance:  # NaN is no agreement
        raise MlcrfError(
            f"{path}: not written: {what} by {difference:.2g} in a probability, more than "
            f"{tolerance:g}; raise --tolerance if that is near enough for you"
        )


def _same_inference(graph: TaggerGraph, own: str) -> bool:
    if graph.is_exact:
        return own in ("independent", "exact", "junction-tree", "scenes")
    return graph.marginals.name.startswith(f"{own},")


def _differences(found: Marginals, expected: Marginals) -> tuple[float, float]:
    """The largest and the mean."""
    apart = np.abs(found - expected)
    return float(apart.max()), float(apart.mean())


@torch.no_grad()
def _torch(graph: TaggerGraph, feed: dict[str, NDArray[np.uint8]]) -> list[Marginals]:
    return [each.numpy() for each in graph(*map(torch.from_numpy, feed.values()))]


@torch.no_grad()
def _own_marginals(
    run: Run, backbone: Backbone, pixels: Pixels, engine: EngineName, cache_dir: Path | None
) -> tuple[Marginals, float]:
    """What `mlcrf predict` would say, and how long it takes after the first time."""
    parts = backbone.parts or (backbone,)
    device = torch.device("cpu")
    engines = [
        (make_engine(engine, part, device, cache_dir=cache_dir), pixels[part.spec.size_px])
        for part in parts
    ]
    method = run.make_inference()

    def tag() -> Marginals:
        features = np.concatenate([run_part(given) for run_part, given in engines], -1)
        result: Marginals = method(run.crf(torch.from_numpy(features))).marginals.numpy()
        return result

    return _timed(tag)


def _run_file(path: Path, feed: dict[str, NDArray[np.uint8]]) -> tuple[list[Marginals], float]:
    """Outputs of the file for all pictures, of which the first is done alone, and the seconds."""
    session = open_session(path)
    alone = session.run(OUTPUTS, {name: each[:1] for name, each in feed.items()})
    together, seconds = _timed(lambda: session.run(OUTPUTS, feed))
    joined = [np.concatenate([one, all_[1:]]) for one, all_ in zip(alone, together, strict=True)]
    return joined, seconds


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    work()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _trace(graph: TaggerGraph, run: Run) -> bytes:
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    if size > _LARGEST_BYTES:
        raise MlcrfError(
            f"{run.path}: its weights take {size / 2**30:.1f} GB, and one ONNX file holds 2 GB"
        )
    batch = torch.export.Dim("batch")
    model = trace(
        graph,
        [torch.zeros(2, size, size, 3, dtype=torch.uint8) for size in graph.inputs.values()],
        inputs=list(graph.inputs),
        outputs=OUTPUTS,
        dynamic_shapes={"pixels": tuple({0: batch} for _ in graph.inputs)},
        name=run.backbone_spec.name,
    )
    for key, value in _metadata(graph, run).items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def _metadata(graph: TaggerGraph, run: Run) -> dict[str, str]:
    sizes = " and ".join(f"{size} x {size}" for size in graph.inputs.values())
    return {
        "labels": json.dumps(list(run.labels)),
        "model_digest": run.digest,
        "mlcrf_version": __version__,
        "inference": graph.inference,
        "backbone": run.backbone_spec.name,
        "preparation": f"RGB, upright by EXIF, squeezed to {sizes} by bicubic interpolation",
    }


def _notes(run: Run, graph: TaggerGraph, gap: float, independent_gap: float) -> tuple[str, ...]:
    notes = []
    if not graph.is_exact and gap > independent_gap:
        notes.append(
            f"{graph.inference} is farther from the run's own inference than its baseline is: take "
            "the output `independent`, or mlcrf itself"
        )
    if run.settings.albums:
        notes.append("the graph takes each photo alone, although the run has learned from albums")
    return tuple(notes)
