"""Exact and approximate inference, and sampling, beside the machine's limits and other programs.

    python experiments/benchmarks/inference.py [--data FOLDER --run RUN] [--out FILE]

`make bench-inference [DATA=folder RUN=run OUT=file.json]` runs it. Without data and run, the rows
on a learned model are left out.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from gibbs import KINDS, SIZES, measure_effective, measure_updates

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.crf import Potentials, full_edges
from mlcrf.datasets.reading import ReadOptions, read_dataset
from mlcrf.datasets.splits import take_split
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Bethe,
    ConvexBeliefPropagation,
    Exact,
    Gibbs,
    MeanField,
    Tap,
    TreeReweighted,
)

DENSE_IMAGES = {16: 8192, 20: 4096, 24: 1024, 28: 256}
METHODS = (
    MeanField(),
    Tap(),
    Bethe(),
    TreeReweighted(),
    ConvexBeliefPropagation(),
    Gibbs(),
    AnnealedImportanceSampling(),
)


def median_seconds(call: Callable[[], object], repetitions: int = 5) -> float:
    """Median wall time, after one call to warm up."""
    call()
    seconds = []
    for _ in range(repetitions):
        began = perf_counter()
        call()
        seconds.append(perf_counter() - began)
    return statistics.median(seconds)


def matmul_rate(size: int = 4096) -> float:
    """Operations a second of the machine's square float32 product."""
    left, right = torch.randn(2, size, size)
    return 2 * size**3 / median_seconds(lambda: left @ right)


def random_model(num_labels: int, num_images: int, size: float, seed: int = 0) -> Potentials:
    """Unaries N(0, 1.5), couplings N(0, size), all pairs."""
    generator = torch.Generator().manual_seed(seed)
    edges = full_edges(num_labels)
    unary = 1.5 * torch.randn(num_images, num_labels, generator=generator)
    return Potentials(unary, edges, size * torch.randn(len(edges), generator=generator))


def learned_model(data: Path, run_path: Path, limit: int) -> Potentials:
    """Potentials of a run for the first images of a data set's test split."""
    run = load_run(run_path)
    options = ReadOptions(run.label_set, labels=run.labels)
    manifest = take_split(read_dataset(data, options), "test")
    features = FeatureExtractor(run.make_backbone()).matrix(manifest.images[:limit])
    with torch.no_grad():
        return run.crf(torch.from_numpy(features))


def as_double(potentials: Potentials) -> Potentials:
    """The same in float64."""
    return Potentials(potentials.unary.double(), potentials.edges, potentials.pairwise.double())


def gradient(potentials: Potentials, method: Exact) -> None:
    """The likelihood's gradient for a batch."""
    unary = potentials.unary.clone().requires_grad_()
    pairwise = potentials.pairwise.clone().requires_grad_()
    with torch.enable_grad():
        method(Potentials(unary, potentials.edges, pairwise)).log_partition.sum().backward()


def exact_row(name: str, potentials: Potentials, *, repetitions: int = 5) -> dict[str, Any]:
    """Times of the marginals, everything summed and with parts left out, and of the gradient."""
    images, labels = potentials.unary.shape
    everything, pruned = Exact(leave_out=0), Exact()
    rate = matmul_rate()
    dense_s = median_seconds(lambda: everything(potentials), repetitions)
    pruned_s = median_seconds(lambda: pruned(potentials), repetitions)
    gradient_s = median_seconds(lambda: gradient(potentials, pruned), repetitions)
    few = potentials.rows(torch.arange(min(images, 512)))
    truth, posterior = everything(as_double(few)), pruned(potentials)
    error = (posterior.marginals[: len(few.unary)] - truth.marginals).abs().max()
    return {
        "model": name,
        "labels": labels,
        "images": images,
        "ms_per_image": 1e3 * dense_s / images,
        "states_per_s": 2**labels * images / dense_s,
        "share_of_matmul": 4 * 2**labels * images / dense_s / rate,
        "matmul_gflops": rate / 1e9,
        "pruned_ms_per_image": 1e3 * pruned_s / images,
        "pruned_speedup": dense_s / pruned_s,
        "gradient_over_marginals": gradient_s / pruned_s,
        "error_bound": float(posterior.error_bound.max()),
        "max_error": float(error),
    }


def approximate_rows(name: str, potentials: Potentials) -> list[dict[str, Any]]:
    """Time and mean absolute errors of every approximate method against exact."""
    truth = Exact(pairwise_marginals=True)(as_double(potentials))
    rows = []
    for method in METHODS:
        seconds = median_seconds(lambda chosen=method: chosen(potentials), 3)
        posterior = method(potentials)
        pairs = posterior.pairwise_marginals
        rows.append(
            {
                "method": method.name,
                "model": name,
                "ms_per_image": 1e3 * seconds / len(potentials.unary),
                "marginal_error": _mean_error(posterior.marginals, truth.marginals),
                "pairwise_error": None
                if pairs is None
                else _mean_error(pairs, truth.pairwise_marginals),
                "log_partition_error": _mean_error(posterior.log_partition, truth.log_partition),
                "converged": float(posterior.converged.double().mean()),
            }
        )
    return rows


def _mean_error(values: torch.Tensor, truth: torch.Tensor) -> float:
    return float((values.double() - truth).abs().mean())


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row on one line and return it."""
    print({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return row


@torch.no_grad()
def main() -> None:
    """Measure, print a line a row, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("inference.json"))
    arguments = parser.parse_args()
    learned = None
    if arguments.data and arguments.run:
        learned = learned_model(arguments.data, arguments.run, 10_000)
    exact = [
        show(exact_row("random, couplings .3", random_model(labels, images, 0.3)))
        for labels, images in DENSE_IMAGES.items()
    ]
    if learned is not None:
        exact.append(show(exact_row("learned", learned, repetitions=3)))
    models = {f"random, couplings {s}": random_model(24, 64, s) for s in (0.1, 0.5, 1.0)}
    if learned is not None:
        models["learned"] = learned.rows(torch.arange(256))
    approximate = [
        show(row) for name, model in models.items() for row in approximate_rows(name, model)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sampling = [show(measure_updates(kind, *size)) for kind in KINDS for size in SIZES]
    effective = [show({"model": kind} | measure_effective(kind)) for kind in KINDS]
    result = {
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in ("torch", "numba", "dwave-samplers")},
        "threads": threads,
        "exact": exact,
        "approximate": approximate,
        "gibbs": sampling,
        "effective_samples": effective,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
