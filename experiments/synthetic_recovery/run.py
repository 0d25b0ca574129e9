"""Measure the share of the possible gain over independent labels that each method reaches.

    python -m experiments.synthetic_recovery.run [--quick]

Scenes whose label sets are sampled from a known CRF at several strengths of its couplings. Each
label shows its mark, or does not, on its own; so of anyone who sees all marks rightly the best
predictions are known: p(y | marks) has the planted couplings and unaries that the marks give.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.frame import Rows, percent
from mlcrf.checkpoint import Run
from mlcrf.choices import ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials, full_edges
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.inference import Exact, Independent, InferenceMethod
from mlcrf.metrics import Predictions, gather_statistics
from mlcrf.reports.correlations import rank_agreements
from mlcrf.synthetic.dataset import make_dataset
from mlcrf.synthetic.planted import PlantedCrf, make_planted_crf
from mlcrf.synthetic.scenes import draw_marks, visibility

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
METHODS: dict[str, dict[str, Any]] = {
    "exact likelihood": {},
    "pseudo-likelihood": {"objective": ObjectiveName.PSEUDO_LIKELIHOOD},
    "contrastive divergence": {"objective": ObjectiveName.CONTRASTIVE_DIVERGENCE},
    "8 latent scenes": {"structure": Structure.LATENT, "scenes": 8},
}
MEASURES = ("nll", "hamming", "subset_accuracy")


def main() -> None:
    """Draw, train, score, and keep the figures."""
    arguments = frame.read_options(__doc__, "synthetic_recovery")
    num_images = 120 if arguments.quick else 6000
    more = frame.QUICK if arguments.quick else {}
    rows: Rows = []
    for strength in STRENGTHS[2:3] if arguments.quick else STRENGTHS:
        folder = arguments.runs / "synthetic_recovery" / f"data-{strength:g}"
        if not (folder / "labels.csv").exists():
            make_dataset(folder, num_images=num_images, coupling_strength=strength)
        data = read_dataset(folder / "labels.csv")
        planted = make_planted_crf(coupling_strength=strength)
        best = _with_marks(planted, data)
        for name, changes in METHODS.items():
            out = folder.with_name(f"{name.replace(' ', '-')}-{strength:g}")
            run = frame.trained(data, out, TrainSettings(**(changes | more)))
            result = frame.scored(arguments, run, data)
            if name == "exact likelihood":
                scores = result.models["independent"]
                plain = {key: getattr(scores, key) for key in MEASURES}
                rows.append({"strength": strength, "method": "independent"} | plain)
            scores = result.models["crf"]
            row = {"strength": strength, "method": name}
            row |= {key: getattr(scores, key) for key in MEASURES}
            row["hamming_interval"] = result.difference["hamming"]
            if len(run.crf.edges) and strength:
                row["agreement"] = _agreement(run, planted)
            rows.append(row)
            frame.keep(arguments, rows)
        rows += [{"strength": strength, "method": name} | one for name, one in best.items()]
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["gaps"])


def _with_marks(planted: PlantedCrf, data: Manifest) -> dict[str, dict[str, float]]:
    """Scores on test scenes of who sees the marks: with the couplings, and without."""
    settings = json.loads(
        (Path(data.images[0].folder).parent / "truth.json").read_text(encoding="utf-8")
    )
    seed = settings["settings"]["seed"]
    places = np.flatnonzero([split == Split.TEST for split in data.splits or ()])
    y = data.targets[places]
    marks = np.stack(
        [
            draw_marks(present, planted, np.random.default_rng((seed, 1, int(place))))
            for place, present in zip(places, y, strict=True)
        ]
    ).astype(bool)
    told = np.stack(
        [_log_ratio(name, marks[:, at], planted) for at, name in enumerate(data.labels)]
    )
    edges = full_edges(len(data.labels))
    pairwise = torch.from_numpy(planted.pairwise_matrix)[edges[:, 0], edges[:, 1]]
    coupled = Potentials(torch.from_numpy(planted.bias + told.T), edges, pairwise)
    # without the others' marks, a label's odds before its own are its frequency's
    alone = np.log(planted.marginals()) - np.log1p(-planted.marginals())
    apart = Potentials(torch.from_numpy(alone + told.T), edges[:0], pairwise[:0])
    return {
        "best that sees every mark": _scores(Exact(), coupled, y),
        "sees a label's own mark alone": _scores(Independent(), apart, y),
    }


def _log_ratio(name: str, shown: NDArray[np.bool_], planted: PlantedCrf) -> NDArray[np.float64]:
    seen = visibility(name, planted)
    return np.where(
        shown,
        np.log(seen.if_present / seen.if_absent),
        np.log((1 - seen.if_present) / (1 - seen.if_absent)),
    )


def _scores(
    method: InferenceMethod, potentials: Potentials, y: NDArray[np.int8]
) -> dict[str, float]:
    beliefs = method(potentials)
    states: Tensor = method.map_states(potentials)
    nll = beliefs.log_partition - potentials.log_score(torch.from_numpy(y.astype(np.int64)))
    predicted = Predictions(beliefs.marginals.numpy(), states.numpy(), nll.numpy())
    measures = gather_statistics(predicted, y).measures()
    return {name: getattr(measures, name) for name in MEASURES}


def _agreement(run: Run, planted: PlantedCrf) -> dict[str, float]:
    """Return the agreement of learned with planted couplings, over those that are not 0."""
    learned = run.crf.pairwise_matrix().double().numpy()
    found = rank_agreements(learned, planted.pairwise_matrix)[-1]
    return {
        "pairs": found.pairs,
        "same_sign": found.same_sign,
        "rank_correlation": found.correlation,
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`gaps`: wrong labels and likelihood, and how much of the gap to the best is closed.

    `short`: the same for strength 1.
    """
    lines = []
    for strength in sorted({row["strength"] for row in results["rows"]}):
        part = {row["method"]: row for row in results["rows"] if row["strength"] == strength}
        start, end = part["independent"], part["best that sees every mark"]
        for name, row in part.items():
            cells = [f"{strength:g}", name, f"{row['nll']:.3f}", percent(row["hamming"])]
            cells.append(percent(row["subset_accuracy"]))
            for measure in ("nll", "hamming"):
                gap = start[measure] - end[measure]
                cells.append(f"{(start[measure] - row[measure]) / gap:.0%}")
            told = row.get("agreement")
            cells.append(
                f"{told['rank_correlation']:+.2f}, {told['same_sign']} of {told['pairs']}"
                if told
                else ""
            )
            lines.append(cells)
    head = ["strength", "method", "nll", "wrong, %", "subset accuracy, %", "gap closed: nll"]
    head += ["wrong", "couplings: rank correlation, sign"]
    short = [cells[1:] for cells in lines if cells[0] == "1"]
    return {"gaps": frame.table(lines, head), "short": frame.table(short, head[1:])}


if __name__ == "__main__":
    main()
