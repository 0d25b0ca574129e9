"""The best that can be had without a network connection: three backbones, and heads with dropout.

    python -m experiments.best.run [--quick]

Each system is trained and scored once on test. How the head is learned was chosen on im1 to im10000
alone: `candidates` are cross-validated by the log-odds of each member on images it has not seen.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments import frame
from experiments.frame import Rows, percent
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.metrics import Predictions, gather_statistics
from mlcrf.model import no_edges
from mlcrf.rules import Rules
from mlcrf.training.examples import Examples
from mlcrf.training.members import fit_members
from mlcrf.training.plan import make_plan
from mlcrf.training.stages import Stages

THREE = "lite0+lite1+lite2"
HEAD: dict[str, Any] = {
    "hidden_units": 512,
    "dropout": 0.6,
    "epochs": 20,
    "batch_size": 128,
    "weight_decay": 1.0,
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "512 units, dropout 0.6, weight decay 1": {},
    "128 units": {"hidden_units": 128},
    "dropout 0.01": {"dropout": 0.01},
    "weight decay 0.05": {"weight_decay": 0.05},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "lite0, linear": {},
    "lite0, head with dropout": {"backbone": "lite0"} | HEAD,
    "three, linear": {"backbone": THREE},
    "three, head with dropout": {"backbone": THREE} | HEAD,
}
_FOLDERS = {"lite0, linear": "mir24", "three, linear": f"learning_curves/{THREE}"}
_MEASURES = {
    "hamming": "wrong, %",
    "subset_accuracy": "subset accuracy, %",
    "mean_average_precision": "mAP, %",
}


def main() -> None:
    """Train, score, cross-validate, and keep the figures."""
    arguments = frame.read_options(__doc__, "best")
    data = frame.photos(arguments)
    small = {"backbone": "lite0", "hidden_units": 8, "epochs": 2}
    more = frame.QUICK | small if arguments.quick else {}
    seen = data.rows(np.flatnonzero(np.array(data.splits) != Split.TEST))
    candidates, systems = list(CANDIDATES.items()), list(SYSTEMS.items())
    if arguments.quick:
        candidates, systems = candidates[:1], systems[:2]
    rows: Rows = []
    for name, changes in systems:
        folder = _FOLDERS.get(name, f"best/{name.replace(', ', '-').replace(' ', '-')}")
        kept = more if changes.get("hidden_units") else (frame.QUICK if arguments.quick else {})
        run = frame.trained(data, arguments.runs / folder, TrainSettings(**(changes | kept)))
        result = frame.scored(arguments, run, data)
        rows.append(
            {
                "system": name,
                "seconds": frame.record_of(run)["seconds"],
                "models": {key: asdict(scores) for key, scores in result.models.items()},
                "difference": result.difference,
                "signature": result.signature,
            }
        )
        frame.keep(arguments, rows, candidates=[])
    chosen: Rows = []
    for name, changes in candidates:
        settings = TrainSettings(**({"backbone": THREE} | HEAD | changes | more))
        chosen.append({"head": name} | cross_validate(arguments.runs, name, seen, settings))
        frame.keep(arguments, rows, candidates=chosen)
        print(chosen[-1], flush=True)
    print("\n\n".join(tables({"rows": rows, "candidates": chosen}).values()))


def cross_validate(
    runs: Path, name: str, data: Manifest, settings: TrainSettings
) -> dict[str, Any]:
    """Measures of independent labels on images that the member in question has not seen."""
    backbone = make_backbone(find_spec(settings.backbone))
    features = FeatureExtractor(backbone, cache_dir=cache_dir(None)).matrix(data.images)
    folder = runs / "best" / "candidates"
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder / f"{name.replace(' ', '-')}.pt", settings.model_dump_json())
    plan = make_plan(settings, data.labels, no_edges(), Rules())
    members = fit_members(Examples(features, data.targets), plan, stages, "all", lambda event: None)
    odds = members.out_of_fold_logits.astype(np.float64)
    nll = (np.logaddexp(0, odds) - odds * (data.targets == 1)).sum(1)
    states = (odds > 0).astype(np.int8)
    predictions = Predictions(1 / (1 + np.exp(-odds)), states, nll, states)
    return asdict(gather_statistics(predictions, data.targets).measures())


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`systems`: on test; `candidates`: by cross-validation."""
    lines = []
    for row in results["rows"]:
        cells = [row["system"]]
        for name in _MEASURES:
            independent, crf = (row["models"][model][name] for model in ("independent", "crf"))
            cells.append(f"{percent(independent)} -> {percent(crf)}")
            cells.append(frame.gain(row["difference"][name]))
        lines.append(cells)
    heads = [head for title in _MEASURES.values() for head in (title, "gain [95 %]")]
    systems = frame.table(lines, ["system", *heads])
    lines = [
        [row["head"], *(percent(row[name]) for name in _MEASURES), f"{row['nll']:.3f}"]
        for row in results["candidates"]
    ]
    return {
        "systems": systems,
        "candidates": frame.table(lines, ["head", *_MEASURES.values(), "nll"]),
    }


if __name__ == "__main__":
    main()
