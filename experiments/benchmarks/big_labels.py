"""Learning with hundreds and thousands of labels: time and memory, and what is learned.

    python -m experiments.benchmarks.big_labels [--labels 100 1000] [--out FILE.json] [--quick]

or `make bench-labels [QUICK=1]`. Features and label sets are drawn from a known sparse CRF
(`experiments.many_labels.drawn`): 3.5 labels an image, few of them common. Couplings are sparse,
eight a label at least, chosen from the training images. Each case is a process of its own. A
gradient is held against what cannot be left out: three products of all features with the head's
weights, one for the unaries, two as of a layer that is trained, on the same cores in turn with it.
Memory is by how much its peak exceeds what was resident before, data and model included in neither.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.processes import peak_memory_mb, run_apart
from experiments.benchmarks.timing import describe_machine, median_ratio, take_turns
from experiments.frame import table
from experiments.many_labels.drawn import make_sparse_crf
from mlcrf.crf.edges import strongest_edges
from mlcrf.inference import Gibbs
from mlcrf.metrics import Predictions, gather_statistics
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import ContrastiveDivergence, independent_loss, pseudo_likelihood_loss
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.persistent_fit import Steps, fit_persistent
from mlcrf.training.preconditioner import Penalty, counted_variance, sampled_covariance

CASES = ("pseudo-likelihood", "contrastive-divergence")
_FEATURES, _EDGES_PER_LABEL = 256, 8
_HELD_OUT = 300  # images
_PENALTY = 0.003  # on couplings
_TOLERANCE = 1e-4
_TURNS = 5
_TIMEOUT_S = 1800.0
# labels to: images to learn from, gradients of baseline and pseudo-likelihood at most, steps
_SIZES = {100: (4000, 60, 60), 1000: (4000, 40, 20), 5000: (2000, 30, 12)}
_QUICK = {100: (300, 5, 4)}

_COST = (
    "objective",
    "labels",
    "couplings",
    "images",
    "a gradient, s",
    "times the products",
    "its memory, MB",
    "memory of the fit, MB",
    "unaries, MB",
)
_LEARNED = (
    "objective",
    "labels",
    "gradients",
    "fit, s",
    "nll: independent",
    "nll: CRF (estimate)",
    "pseudo-nll: CRF",
    "mAP, %: independent",
    "CRF",
)


class _StepsAlone(ContrastiveDivergence):
    """Without the estimate of the likelihood of all images that closes a fit.

    That takes as long as 70 steps; `_held_out` makes one on images held out.
    """

    def __call__(self, potentials: Any, targets: Any) -> torch.Tensor:
        """Nothing."""
        return torch.zeros(())


def main() -> None:
    """Measure every case, print it, keep the figures, and print them as a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, nargs="+", choices=_SIZES, default=list(_SIZES))
    parser.add_argument("--out", type=Path, help="file of the figures")
    parser.add_argument("--quick", action="store_true", help="100 labels, few images and steps")
    options = parser.parse_args()
    sizes = _QUICK if options.quick else {size: _SIZES[size] for size in options.labels}
    kept = Path(
        "runs/quick/big_labels.json" if options.quick else Path(__file__).with_suffix(".json")
    )
    out: Path = options.out or kept
    machine = {"mlcrf": version("mlcrf"), **describe_machine(), "quick": options.quick}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows = []
    for num_labels, (images, gradients, steps) in sizes.items():
        for objective in CASES:
            row = run_apart(
                measure, objective, num_labels, images, gradients, steps,
                cores=torch.get_num_threads(), timeout_s=_TIMEOUT_S,
            )  # fmt: skip
            rows.append(row)
            cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            print(", ".join(cells), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for made in tables({"rows": rows}).values():
        print(f"\n{made}")


def measure(
    objective: str, num_labels: int, images: int, gradients: int, steps: int
) -> dict[str, Any]:
    """One case, from data to scores on images held out."""
    began = perf_counter()
    crf = make_sparse_crf(num_labels, _FEATURES)
    features, targets = crf.draw(images + _HELD_OUT, seed=1)
    space = FeatureSpace(features[:images], targets[:images])
    edges = strongest_edges(targets[:images], _EDGES_PER_LABEL)
    # on the weights what they were drawn with
    penalty = Penalty(_FEATURES / 2.25 / images, _PENALTY)
    row: dict[str, Any] = {
        "objective": objective,
        "labels": num_labels,
        "edges": len(edges),
        "images": images,
        "features": _FEATURES,
        "labels_per_image": float(targets.mean() * num_labels),
        "draw_seconds": perf_counter() - began,
    }
    baseline, _ = fit(
        space,
        LabelCrf(_FEATURES, num_labels, edges=no_edges()),
        independent_loss,
        penalty,
        tolerance=_TOLERANCE,
        max_gradients=gradients,
    )
    start = LabelCrf(_FEATURES, num_labels, edges=edges)
    start.output.load_state_dict(baseline.output.state_dict())
    fitted, seconds, memory = start, 0.0, 0.0
    for name in CASES[: CASES.index(objective) + 1]:
        learn: Callable[..., Any]
        if name == "pseudo-likelihood":
            learn = partial(
                fit, space, fitted, pseudo_likelihood_loss, penalty,
                tolerance=_TOLERANCE, max_gradients=gradients,
            )  # fmt: skip
        else:
            learn = partial(
                fit_persistent, space, fitted, _StepsAlone(), penalty,
                curvature=sampled_covariance, tolerance=_TOLERANCE, steps=Steps(steps),
            )  # fmt: skip
        if name == objective:
            row |= _gradient(objective, space, fitted)
        results: list[Any] = []
        part = perf_counter()
        memory = peak_memory_mb(lambda learn=learn, results=results: results.append(learn()))
        seconds = perf_counter() - part
        fitted, report = results[0]
    row |= {
        "gradients": report.gradients,
        "fit_seconds": seconds,
        "fit_peak_mb": memory,
        "curvature_seconds": _seconds_of_curvature(objective, space, start),
    }
    row |= _held_out(
        space.to_features(baseline), space.to_features(fitted), features[images:], targets[images:]
    )
    return row | {"seconds": perf_counter() - began}


def _gradient(objective: str, space: FeatureSpace, model: LabelCrf) -> dict[str, float]:
    """Seconds of a gradient over all images, and of the products it is held against.

    Memory is that of the first one, with the chains that it begins.
    """
    weights = model.output.weight.detach().clone()
    sampling = ContrastiveDivergence()
    memory: list[Any] = []

    def begin() -> None:
        if objective == "contrastive-divergence":
            with torch.no_grad():
                potentials = model(space.rotated)
                memory.append(sampling.start(potentials, space.targets))
        step()

    def step() -> None:
        model.zero_grad()
        potentials = model(space.rotated)
        if memory:
            memory[0] = sampling.advance(memory[0], potentials)
            loss = sampling.loss(memory[0], potentials)
        else:
            loss = pseudo_likelihood_loss(potentials, space.targets)
        loss.backward()  # type: ignore[no-untyped-call]

    def products() -> None:
        unary = space.rotated @ weights.T
        unary.T @ space.rotated
        unary @ weights

    peak = peak_memory_mb(begin)  # later ones find it allocated already
    for _ in range(3):
        step()  # chains come down from random states
    seconds = take_turns({"step": step, "products": products}, turns=_TURNS)
    return {
        "step_seconds": statistics.median(seconds["step"]),
        "products_seconds": statistics.median(seconds["products"]),
        "ratio": median_ratio(seconds["step"], seconds["products"]),
        "step_peak_mb": peak,
        "unaries_mb": space.targets.numel() * 4 / 1e6,
    }


def _seconds_of_curvature(objective: str, space: FeatureSpace, model: LabelCrf) -> float:
    began = perf_counter()
    curvature = counted_variance if objective == "pseudo-likelihood" else sampled_covariance
    curvature(space, model)
    return perf_counter() - began


@torch.no_grad()
def _held_out(
    baseline: LabelCrf, fitted: LabelCrf, features: Any, targets: Any
) -> dict[str, float]:
    """Scores on images held out; nll and mAP of the CRF by sampling."""
    inputs, known = torch.from_numpy(features), torch.from_numpy(targets).long()
    alone, together = baseline(inputs), fitted(inputs)
    posterior = Gibbs(chains=10, burn_in=20, sweeps=30)(together)

    def precision(marginals: torch.Tensor) -> float:
        nothing = np.zeros(targets.shape, dtype=np.int64)
        said = Predictions(marginals.double().numpy(), nothing, np.zeros(len(targets)))
        return gather_statistics(said, targets).measures().mean_average_precision

    return {
        "independent_nll": float(independent_loss(alone, known)),
        "pseudo_nll": float(pseudo_likelihood_loss(together, known)),
        "nll_estimate": float((posterior.log_partition - together.log_score(known)).mean()),
        "independent_map": precision(alone.unary.sigmoid()),
        "crf_map": precision(posterior.marginals),
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`cost`: time and memory of a gradient; `learned`: scores on images held out."""
    rows = results["rows"]
    cost = [
        [
            row["objective"],
            f"{row['labels']:,d}",
            f"{row['edges']:,d}",
            f"{row['images']:,d}",
            f"{row['step_seconds']:.2g}",
            f"{row['ratio']:.1f}",
            f"{row['step_peak_mb']:,.0f}",
            f"{max(0.0, row['fit_peak_mb']):,.0f}",
            f"{row['unaries_mb']:,.0f}",
        ]
        for row in rows
    ]
    learned = [
        [
            row["objective"],
            f"{row['labels']:,d}",
            str(row["gradients"]),
            f"{row['fit_seconds']:.0f}",
            f"{row['independent_nll']:.2f}",
            f"{row['nll_estimate']:.2f}",
            f"{row['pseudo_nll']:.2f}",
            f"{100 * row['independent_map']:.1f}",
            f"{100 * row['crf_map']:.1f}",
        ]
        for row in rows
    ]
    return {"cost": table(cost, _COST), "learned": table(learned, _LEARNED)}


if __name__ == "__main__":
    main()
