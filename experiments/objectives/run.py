"""Which objective, decoded with which inference? Trains one run an objective, scores each decoding.

    python experiments/objectives/run.py --data data/mirflickr25k [--label-set 24] [--quick]

Runs that are there already are not trained again, runs that were stopped go on; `results.json` is
rewritten after every row, and keeps what is not among `--only`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import STATE, load_run
from mlcrf.choices import InferenceName, ObjectiveName, Schedule
from mlcrf.cli.console import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.datasets.manifest import Manifest, Split
from mlcrf.datasets.reading import ReadOptions, read_dataset
from mlcrf.datasets.splits import split_manifest
from mlcrf.evaluation import evaluate
from mlcrf.training.run import Environment, train

HERE = Path(__file__).parent
OBJECTIVES: dict[str, dict[str, Any]] = {
    "exact likelihood": {"objective": ObjectiveName.EXACT_LIKELIHOOD},
    "exact likelihood, piecewise": {
        "objective": ObjectiveName.EXACT_LIKELIHOOD,
        "schedule": Schedule.PIECEWISE,
    },
    "pseudo-likelihood": {"objective": ObjectiveName.PSEUDO_LIKELIHOOD},
    "contrastive divergence": {"objective": ObjectiveName.CONTRASTIVE_DIVERGENCE},
    "contrastive divergence, seed 1": {
        "objective": ObjectiveName.CONTRASTIVE_DIVERGENCE,
        "seed": 1,
    },
    "contrastive divergence, seed 2": {
        "objective": ObjectiveName.CONTRASTIVE_DIVERGENCE,
        "seed": 2,
    },
    "unrolled mean field": {"objective": ObjectiveName.UNROLLED_MEAN_FIELD},
    "blended convex BP": {"objective": ObjectiveName.BLENDED_CONVEX_BP},
}
EXACT_REACH = (
    InferenceName.EXACT,
    InferenceName.MEAN_FIELD,
    InferenceName.PARALLEL_MEAN_FIELD,
    InferenceName.TAP,
    InferenceName.CONVEX_BP,
    InferenceName.GIBBS,
)


def log(message: str) -> None:
    """A line a fit."""
    if ": gradient " not in message:
        print(message, flush=True)


def trained(name: str, data: Manifest, changes: dict[str, Any], runs: Path) -> tuple[Path, float]:
    """The run of an objective, and what its CRF took to learn, in seconds."""
    out = runs / name.replace(",", "").replace(" ", "-")
    if not (out / "metrics.json").exists():
        settings = TrainSettings(**changes)
        # the splits are made already, so that another seed draws other chains and no more
        environment = Environment(cache_dir=cache_dir(None))
        begun = (out / STATE).exists()
        train(
            data,
            out,
            settings,
            environment,
            resume=begun,
            overwrite=out.exists() and not begun,
            log=log,
        )
    seconds = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["seconds"]
    return out, float(seconds["crf"])


def main() -> None:
    """Train, score, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--label-set", type=int, default=24)
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--only", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--quick", action="store_true", help="600 photos and few steps")
    arguments = parser.parse_args()
    data = split_manifest(read_dataset(arguments.data, ReadOptions(arguments.label_set)), seed=0)
    more: dict[str, Any] = {}
    if arguments.quick:
        first = [
            np.flatnonzero([one == split for one in data.splits or ()])[:200] for split in Split
        ]
        data = data.rows(np.concatenate(first))
        more = {"penalties": (0.3,), "pairwise_penalties": (0.01,), "steps": 20}
    test = data.part(Split.TEST)
    rows = _rows_of_others(arguments.out, arguments.only)
    for name in arguments.only:
        path, seconds = trained(name, data, OBJECTIVES[name] | more, arguments.runs)
        run = load_run(path)
        own = run.make_inference().name
        extractor = FeatureExtractor(run.make_backbone(), cache_dir=cache_dir(None))
        names = EXACT_REACH if len(data.labels) <= 24 else (InferenceName.GIBBS,)
        for inference in names:
            began = perf_counter()
            matched = inference.value == own
            resamples = 1000 if matched else 1
            result = evaluate(
                run, test, extractor, split="test", inference=inference, resamples=resamples
            )
            rows.append(
                {
                    "objective": name,
                    "seed": run.settings.seed,
                    "train_seconds": seconds,
                    "inference": inference.value,
                    "matched": matched,
                    "evaluate_seconds": round(perf_counter() - began, 1),
                    "nll_kind": result.nll_kind,
                    "crf": asdict(result.models["crf"]),
                    "independent": asdict(result.models["independent"]),
                    "difference": result.difference if matched else None,
                    "signature": result.signature,
                }
            )
            print(name, inference.value, rows[-1]["crf"], flush=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(format_rows(rows))


def _rows_of_others(path: Path, names: list[str]) -> list[dict[str, Any]]:
    """What an earlier call found out about objectives that are not done again."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [row for row in kept if row["objective"] not in names]


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the figures, a line an objective and inference."""
    lines = [
        "| objective | inference | nll | wrong, % | subset accuracy, % | mAP, % | macro F1, % "
        "| calibration error, % | couplings learned in, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        crf = row["crf"]
        shares = ("hamming", "subset_accuracy", "mean_average_precision", "macro_f1")
        figures = [f"{100 * crf[name]:.2f}" for name in (*shares, "calibration_error")]
        name = f"**{row['inference']}**" if row["matched"] else row["inference"]
        nll = f"{crf['nll']:.3f}" + ("" if row["nll_kind"] == "exact" else f" ({row['nll_kind']})")
        cells = [row["objective"], name, nll, *figures, f"{row['train_seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
