"""What is a CRF worth where most training labels are unknown? Hides some at random and trains.

    python experiments/hidden-labels/run.py --data data/mirflickr25k [--quick]

Each label of each training and validation image is hidden with the same chance; test labels never
are. The baseline leaves out what is unknown; the CRF sums it out, by contrastive divergence with
clamped chains, and at one share by exact likelihood too. Runs that are there already are not
trained again, runs that were stopped go on; `results.json` is rewritten after every row.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import STATE, load_run
from mlcrf.choices import ObjectiveName
from mlcrf.cli.console import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.datasets.manifest import Manifest, Split
from mlcrf.datasets.reading import ReadOptions, read_dataset
from mlcrf.datasets.splits import split_manifest
from mlcrf.evaluation import evaluate
from mlcrf.training.run import Environment, train

HERE = Path(__file__).parent
SAMPLED, EXACT = ObjectiveName.CONTRASTIVE_DIVERGENCE, ObjectiveName.EXACT_LIKELIHOOD
CASES = [(0.1, SAMPLED), (0.25, SAMPLED), (0.5, SAMPLED), (0.9, SAMPLED), (0.5, EXACT)]
PENALTIES: dict[str, Any] = {
    "penalties": (0.1, 0.3, 1.0),
    "pairwise_penalties": (1e-3,),
}


def log(message: str) -> None:
    """A line a fit."""
    if ": gradient " not in message:
        print(message, flush=True)


def hide(data: Manifest, share: float, seed: int) -> Manifest:
    """The same data with a share of the training and validation targets unknown."""
    rng = np.random.default_rng(seed)
    kept = np.array(data.splits) == Split.TEST
    hidden = (rng.random(data.targets.shape) < share) & ~kept[:, None]
    return replace(data, targets=np.where(hidden, np.int8(-1), data.targets))


def main() -> None:
    """Train, score, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/hidden-labels"))
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--seed", type=int, default=0, help="of what is hidden, and of the chains")
    parser.add_argument("--quick", action="store_true", help="600 photos and few steps")
    arguments = parser.parse_args()
    data = split_manifest(read_dataset(arguments.data, ReadOptions(24)), seed=0)
    more = PENALTIES
    if arguments.quick:
        splits = np.array(data.splits)
        data = data.rows(np.concatenate([np.flatnonzero(splits == s)[:200] for s in Split]))
        more = {"penalties": (0.3,), "pairwise_penalties": (0.01,), "steps": 20}
    rows = []
    for share, objective in CASES:
        out = arguments.runs / f"{share:g}-{objective.value}-{arguments.seed}"
        if not (out / "metrics.json").exists():
            settings = TrainSettings(objective=objective, seed=arguments.seed, **more)
            hidden = hide(data, share, arguments.seed)
            environment = Environment(cache_dir=cache_dir(None))
            begun = (out / STATE).exists()
            train(
                hidden,
                out,
                settings,
                environment,
                resume=begun,
                overwrite=out.exists() and not begun,
                log=log,
            )
        run = load_run(out)
        extractor = FeatureExtractor(run.make_backbone(), cache_dir=cache_dir(None))
        result = evaluate(run, data.part(Split.TEST), extractor, split="test")
        record = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "hidden": share,
                "objective": objective.value,
                "seed": arguments.seed,
                "train_seconds": record["seconds"]["crf"],
                "penalties": {name: fit["penalty_weights"] for name, fit in record["fits"].items()},
                "models": {name: asdict(scores) for name, scores in result.models.items()},
                "difference": result.difference,
                "signature": result.signature,
            }
        )
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(format_rows(rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: independent, CRF, and the 95 % interval of the difference."""
    names = {"nll": 1, "hamming": 100, "subset_accuracy": 100, "mean_average_precision": 100}
    lines = [
        "| hidden | CRF by | nll | wrong, % | subset accuracy, % | mAP, % |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['hidden']:.0%}", row["objective"]]
        for name, factor in names.items():
            ours, theirs = (factor * row["models"][m][name] for m in ("crf", "independent"))
            _, low, high = (factor * value for value in row["difference"][name])
            cells.append(f"{theirs:.2f} -> {ours:.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
