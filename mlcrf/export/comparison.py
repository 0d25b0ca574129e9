"""Images for comparing an exported graph with its run, and the marginals of both."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.engines import make_engine
from mlcrf.backbones.registry import Backbone
from mlcrf.checkpoint import Run
from mlcrf.choices import EngineName
from mlcrf.errors import DataError
from mlcrf.export.tagger_module import OUTPUTS, TaggerModule
from mlcrf.images import as_image
from mlcrf.images.framing import Framing
from mlcrf.images.listing import walk_images
from mlcrf.images.pixels import load_pixels
from mlcrf.synthetic.planted import make_planted_crf
from mlcrf.synthetic.scenes import draw_scene

NUM_IMAGES = 16

Pixels = dict[int, NDArray[np.uint8]]  # (N, size, size, 3) by size
Marginals = NDArray[np.float32]
Result = TypeVar("Result")


def draw_images(sizes: Sequence[int]) -> Pixels:
    """Draw scenes of each size; deterministic."""
    planted = make_planted_crf()
    states = planted.sample(NUM_IMAGES, np.random.default_rng(0))
    return {
        size: np.stack(
            [
                np.asarray(
                    draw_scene(state, planted, np.random.default_rng(at), image_size_px=size)
                )
                for at, state in enumerate(states)
            ]
        )
        for size in sizes
    }


def load_images(place: Path, sizes: Sequence[int], framing: Framing | None = None) -> Pixels:
    """Load the first readable images of a folder, or one image, in each size.

    Args:
        framing: of the run's network; None squeezes.

    Raises:
        DataError: no image can be read; the text says why for the first.
    """
    loaded: list[list[NDArray[np.uint8]]] = []
    first_error: DataError | None = None
    for image in walk_images(place) if place.is_dir() else [as_image(place)]:
        try:
            loaded.append([load_pixels(image, size, framing) for size in sizes])
        except DataError as error:
            first_error = first_error or error
        if len(loaded) == NUM_IMAGES:
            break
    if not loaded:
        raise first_error or DataError(f"{place}: no images found")
    return {
        size: np.stack(each) for size, each in zip(sizes, zip(*loaded, strict=True), strict=True)
    }


def differences(found: Marginals, expected: Marginals) -> tuple[float, float]:
    """Return the largest and the mean difference."""
    apart = np.abs(found - expected)
    return float(apart.max()), float(apart.mean())


@torch.no_grad()
def run_graph(graph: TaggerModule, feed: dict[str, NDArray[np.uint8]]) -> list[Marginals]:
    """Return the outputs of the graph in torch."""
    return [each.numpy() for each in graph(*map(torch.from_numpy, feed.values()))]


@torch.no_grad()
def run_itself(
    run: Run, backbone: Backbone, pixels: Pixels, engine: EngineName, cache_dir: Path | None
) -> tuple[Marginals, float]:
    """Return the marginals of `mlcrf predict`, and the seconds of a second call."""
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


def run_file(path: Path, feed: dict[str, NDArray[np.uint8]]) -> tuple[list[Marginals], float]:
    """Return the outputs of the file and its seconds; the first image is run in a batch of one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    alone = session.run(OUTPUTS, {name: each[:1] for name, each in feed.items()})
    together, seconds = _timed(lambda: session.run(OUTPUTS, feed))
    joined = [np.concatenate([one, all_[1:]]) for one, all_ in zip(alone, together, strict=True)]
    return joined, seconds


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of a second call, and its seconds."""
    work()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
