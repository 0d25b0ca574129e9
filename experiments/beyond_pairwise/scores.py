"""Measures of the models on test photos, and the tables of the page."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.beyond_pairwise.study import Answer

MEASURES = {
    "nll": ("nll", 1),
    "subset_accuracy": ("subset accuracy, %", 100),
    "hamming": ("wrong, %", 100),
    "mean_average_precision": ("mAP, %", 100),
    "example_f1": ("example F1, %", 100),
}
KINDS = ("labels", "pairs", "triples", "counts")


def score(
    answers: dict[str, Answer], targets: Tensor, resamples: int, reference: str = "pairwise"
) -> frame.Rows:
    """Measures of each model, and differences to the pairwise CRF by a paired bootstrap."""
    columns, ranked = {}, {}
    for name, one in answers.items():
        statistics = one.statistics(targets)
        wrong = statistics.by_image["wrong_per_image"] / targets.shape[1]
        right = statistics.by_image["subset_accuracy"]
        columns[name] = np.stack([statistics.nll, right, wrong, one.f1(targets)], 1)
        ranked[name] = statistics
    names = ("nll", "subset_accuracy", "hamming", "example_f1")
    rng = np.random.default_rng(0)

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for name, values in columns.items():
            precision = np.nanmean(ranked[name].average_precisions(weights))
            found[name] = np.append(weights @ values / weights.sum(), precision)
        return found

    value = measure(np.ones(len(targets)))
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in columns}
    for _ in range(resamples):
        chosen = rng.integers(len(targets), size=len(targets))
        counts = np.bincount(chosen, minlength=len(targets)).astype(np.float64)
        again = measure(counts)
        for name in columns:
            drawn[name].append(again[name] - again[reference])
    rows = []
    for name, values in value.items():
        low, high = np.percentile(np.stack(drawn[name]), [2.5, 97.5], axis=0)
        keys = (*names, "mean_average_precision")
        gain = values - value[reference]
        triples = zip(gain.tolist(), low.tolist(), high.tolist(), strict=True)
        rows.append(
            {
                "system": name,
                "measures": dict(zip(keys, values.tolist(), strict=True)),
                "difference": dict(zip(keys, triples, strict=True)),
            }
        )
    return rows


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`models-14` and others by labels; `checks`, `oracles` and `choices` of all."""
    found = {}
    for labels in sorted({row["labels"] for row in results["rows"]}):
        lines = []
        for row in results["rows"]:
            if row["labels"] != labels:
                continue
            cells = [row["head"], row["system"]]
            for name, (_, factor) in MEASURES.items():
                value = factor * row["measures"][name]
                cells.append(f"{value:.3f}" if factor == 1 else f"{value:.2f}")
                if row["system"] == "pairwise":
                    cells.append("")
                elif factor == 1:
                    mean, low, high = row["difference"][name]
                    cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
                else:
                    cells.append(frame.gain(row["difference"][name], factor))
            lines.append(cells)
        heads = [one for title, _ in MEASURES.values() for one in (title, "difference [95 %]")]
        found[f"models-{labels}"] = frame.table(lines, ["head", "model", *heads])
    lines = []
    for row in results["checks"]:
        cells = [str(row["labels"]), row["head"], row["photos"], row["system"]]
        for kind in KINDS:
            one = row["kinds"][kind]
            cells.append(f"{one['mean_square']:.2f} (p {one['p']:.2f})")
        cells.append(f"{100 * row['kinds']['triples']['far']:.1f}")
        lines.append(cells)
    head = ["labels", "head", "photos", "model", *KINDS, "triples beyond 3, %"]
    found["checks"] = frame.table(lines, head)
    lines = [
        [
            str(row["labels"]),
            row["head"],
            row["known"],
            frame.percent(row["hamming"]),
            frame.percent(row["mean_average_precision"]),
        ]
        for row in results["oracles"]
    ]
    found["oracles"] = frame.table(lines, ["labels", "head", "known", "wrong, %", "mAP, %"])
    lines = [
        [
            str(row["labels"]),
            row["head"],
            row["system"],
            row["settings"],
            f"{row['held_out']:.4f}",
        ]
        for row in results["choices"]
    ]
    found["choices"] = frame.table(lines, ["labels", "head", "model", "settings", "held-out loss"])
    return found
