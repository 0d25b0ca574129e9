"""Measure the gain of a CRF with unknown training labels: hide some at random and train.

    python -m experiments.hidden_labels.run [--quick]

Each label of each training and validation image is hidden with the same chance; test labels never
are. The baseline leaves out what is unknown; the CRF sums it out, by contrastive divergence with
clamped chains, and at one share by exact likelihood too.
"""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from experiments import frame
from experiments.frame import percent
from mlcrf.choices import ObjectiveName
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split

SAMPLED, EXACT = ObjectiveName.CONTRASTIVE_DIVERGENCE, ObjectiveName.EXACT_LIKELIHOOD
CASES = [(0.1, SAMPLED), (0.25, SAMPLED), (0.5, SAMPLED), (0.9, SAMPLED), (0.5, EXACT)]
PENALTIES: dict[str, Any] = {
    "penalties": (0.1, 0.3, 1.0),
    "pairwise_penalties": (1e-3, 1e-2, 1e-1),
}


def hide(data: Manifest, share: float, seed: int) -> Manifest:
    """The same data with a share of the training and validation targets unknown."""
    rng = np.random.default_rng(seed)
    kept = np.array(data.splits) == Split.TEST
    hidden = (rng.random(data.targets.shape) < share) & ~kept[:, None]
    return replace(data, targets=np.where(hidden, np.int8(-1), data.targets))


def main() -> None:
    """Train, score, and keep the figures."""
    of_what = "of what is hidden, and of the chains"
    arguments = frame.read_options(
        __doc__, "hidden_labels", seed={"type": int, "default": 0, "help": of_what}
    )
    data = frame.photos(arguments)
    more = frame.QUICK if arguments.quick else PENALTIES
    rows = []
    for share, objective in CASES[-2:] if arguments.quick else CASES:
        name = f"{share:g}-{objective.value}-{arguments.seed}"
        settings = TrainSettings(objective=objective, seed=arguments.seed, **more)
        run = frame.trained(
            hide(data, share, arguments.seed), arguments.runs / "hidden_labels" / name, settings
        )
        result = frame.scored(arguments, run, data)
        record = frame.record_of(run)
        rows.append(
            {
                "hidden": share,
                "objective": objective.value,
                "seed": arguments.seed,
                "train_seconds": record["seconds"]["crf"],
                "fits": record["fits"],
                "models": {name: asdict(scores) for name, scores in result.models.items()},
                "difference": result.difference,
                "signature": result.signature,
            }
        )
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["shares"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`shares`: independent, CRF, and the 95 % interval of the difference."""
    lines = []
    for row in results["rows"]:
        cells = [f"{row['hidden']:.0%}", row["objective"]]
        for name in ("nll", "hamming", "subset_accuracy", "mean_average_precision"):
            theirs, ours = (row["models"][model][name] for model in ("independent", "crf"))
            _, low, high = row["difference"][name]
            if name == "nll":
                cells.append(f"{theirs:.2f} -> {ours:.2f} [{low:+.2f}, {high:+.2f}]")
            else:
                interval = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
                cells.append(f"{percent(theirs)} -> {percent(ours)} {interval}")
        lines.append(cells)
    head = ["hidden", "CRF by", "nll", "wrong, %", "subset accuracy, %", "mAP, %"]
    return {"shares": frame.table(lines, head)}


if __name__ == "__main__":
    main()
