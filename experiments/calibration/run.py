"""Are probabilities what they say? Of labels, of pairs present together, of whole label sets.

python -m experiments.calibration.run [--quick]
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.calibration import tempering
from experiments.frame import percent
from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Split
from mlcrf.inference import Exact

BINS = 15
KINDS = {"labels": "labels", "pairs": "pairs, both present", "sets": "most probable set"}
MODELS = {"independent": "independent", "crf": "CRF"}


@torch.no_grad()
def beliefs(run: Run, features: Tensor, targets: Tensor) -> dict[str, dict[str, Any]]:
    """By model and kind: probabilities and whether it was so, both flat."""
    first, second = torch.triu_indices(len(run.labels), len(run.labels), 1)
    together = targets[:, first] * targets[:, second]
    potentials = run.crf(features)
    exact = Exact(pairwise_marginals=True)
    posterior = exact(potentials)
    best = exact.map_states(potentials)
    assert posterior.pairwise_marginals is not None
    assert torch.equal(run.crf.edges, torch.stack([first, second], 1)), "all pairs, in order"
    independent = run.independent(features).unary.sigmoid()
    likely = independent > 0.5
    sure = torch.where(likely, independent, 1 - independent).log().sum(1).exp()
    certainty = (potentials.log_score(best) - posterior.log_partition).exp()
    return {
        "independent": {
            "labels": (independent, targets),
            "pairs": (independent[:, first] * independent[:, second], together),
            "sets": (sure, (likely == targets).all(1)),
        },
        "crf": {
            "labels": (posterior.marginals, targets),
            "pairs": (posterior.pairwise_marginals, together),
            "sets": (certainty, (best == targets).all(1)),
        },
    }


def reliability(p: NDArray[np.float64], hit: NDArray[np.float64]) -> dict[str, Any]:
    """Mean probability, frequency and number in equal bins, the mean gap, and the Brier score."""
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    said, was = (np.bincount(place, weights=w, minlength=BINS) for w in (p, hit))
    full = np.maximum(counts, 1)
    return {
        "count": counts.tolist(),
        "said": (said / full).tolist(),
        "was": (was / full).tolist(),
        "error": float(np.abs(said - was).sum() / counts.sum()),
        "brier": float(np.square(p - hit).mean()),
        "mean_said": float(p.mean()),
        "mean_was": float(hit.mean()),
    }


def main() -> None:
    """Infer, count, draw, and keep the figures."""
    arguments = frame.read_options(__doc__, "calibration")
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = data.part(Split.TEST)
    found = beliefs(
        run, frame.features_of(run, test), torch.from_numpy(test.targets.astype(np.int64))
    )
    rows = []
    for kind in KINDS:
        for model in MODELS:
            p, hit = (value.flatten().double().numpy() for value in found[model][kind])
            rows.append({"of": kind, "model": model} | reliability(p, hit))
    kept = frame.earlier(arguments)
    more = {"tempering": kept["tempering"]} if "tempering" in kept else {}
    frame.keep(arguments, rows, **more)
    draw(rows, arguments.out.with_name("reliability.png"))
    print(tables({"rows": rows})["errors"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`errors`: mean gap of probability and frequency, and Brier score."""
    lines = [
        [
            KINDS[row["of"]],
            MODELS[row["model"]],
            percent(row["mean_said"]),
            percent(row["mean_was"]),
            percent(row["error"]),
            f"{row['brier']:.4f}",
        ]
        for row in results["rows"]
    ]
    head = ["of", "model", "said, %", "was, %", "calibration error, %", "Brier score"]
    more = tempering.tables(results) if "tempering" in results else {}
    return {"errors": frame.table(lines, head)} | more


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Frequency against probability, a panel a kind; only bins with 20 or more."""
    figure, panels = plt.subplots(1, len(KINDS), figsize=(10, 3.6), layout="constrained")
    for panel, kind in zip(panels, KINDS, strict=True):
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for model, colour in (("independent", "tab:gray"), ("crf", "tab:blue")):
            row = next(one for one in rows if (one["of"], one["model"]) == (kind, model))
            enough = np.array(row["count"]) >= 20
            said, was = np.array(row["said"])[enough], np.array(row["was"])[enough]
            panel.plot(said, was, marker="o", color=colour, label=MODELS[model])
        panel.set(title=KINDS[kind], xlabel="probability", xlim=(0, 1), ylim=(0, 1))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("how often it was so")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
