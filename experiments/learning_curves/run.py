"""Measure the gain of couplings by the number of training images and by the backbone.

    python -m experiments.learning_curves.run [--quick]

A fifth of the images drawn is for validation. Draws of one seed hold each other.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import frame
from experiments.frame import Rows, percent
from mlcrf.choices import Finetune
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.evaluation import evaluate

SIZES = (100, 300, 1000, 3000)
SEEDS = (0, 1, 2)
BACKBONES: dict[str, dict[str, Any]] = {
    "lite0": {},
    "lite1": {"backbone": "lite1"},
    "lite2": {"backbone": "lite2"},
    "lite0 + lite1 + lite2": {"backbone": "lite0+lite1+lite2"},
    "tiny, from scratch": {"backbone": "tiny", "finetune": Finetune.ALL, "epochs": 20},
}
MEASURES = {
    "hamming": "wrong, %",
    "subset_accuracy": "subset accuracy, %",
    "mean_average_precision": "mAP, %",
}


def drawn(data: Manifest, size: int, seed: int) -> Manifest:
    """The test images, and so many of the others, drawn: four fifths to train, one to validate."""
    splits = np.array(data.splits)
    pool = np.random.default_rng(seed).permutation(np.flatnonzero(splits != Split.TEST))[:size]
    kept = np.concatenate([pool, np.flatnonzero(splits == Split.TEST)])
    parts = [Split.VALIDATION if at % 5 == 4 else Split.TRAIN for at in range(len(pool))]
    tests = [Split.TEST] * (len(kept) - len(pool))
    return replace(data.rows(kept), splits=(*parts, *tests))


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(__doc__, "learning_curves")
    data = frame.photos(arguments)
    sizes, seeds, backbones = SIZES, SEEDS, BACKBONES
    if arguments.quick:
        sizes, seeds, backbones = (100, 300), (0,), {"lite0": {}}
    more = frame.QUICK if arguments.quick else {}
    cases = [(f"{size}-{seed}", "lite0", size, seed) for seed in seeds for size in sizes]
    whole = sum(split != Split.TEST for split in data.splits or ())
    cases += [(name.split(",")[0].replace(" ", ""), name, whole, 0) for name in backbones]
    rows: Rows = []
    for folder, backbone, size, seed in cases:
        part = data if size == whole else drawn(data, size, seed)
        settings = TrainSettings(**(BACKBONES[backbone] | more))
        run = frame.trained(part, arguments.runs / "learning_curves" / folder, settings)
        resamples = (
            arguments.resamples if size == whole else 1
        )  # of draws, it is the spread that tells
        result = evaluate(
            run,
            data.part(Split.TEST),
            frame.extractor_of(run),
            split="test",
            resamples=resamples,
        )
        rows.append(
            {
                "images": size,
                "seed": seed,
                "backbone": backbone,
                "models": {name: asdict(scores) for name, scores in result.models.items()},
                "difference": result.difference,
                "fits": frame.record_of(run)["fits"],
                "signature": result.signature,
            }
        )
        frame.keep(arguments, rows)
    draw(rows, arguments.out.with_name("curves.png"))
    print("\n\n".join(tables({"rows": rows}).values()))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`sizes`: by number of images, mean over draws; `backbones`: on all images."""
    return {"sizes": _sizes(results["rows"]), "backbones": _backbones(results["rows"])}


def _sizes(rows: Rows) -> str:
    lines = []
    for size in sorted({row["images"] for row in rows}):
        part = [row for row in rows if row["images"] == size and row["backbone"] == "lite0"]
        cells = [f"{size:,d}", str(len(part))]
        for name in MEASURES:
            independent, crf = (_values(part, model, name) for model in ("independent", "crf"))
            cells.append(f"{percent(independent.mean())} -> {percent(crf.mean())}")
            cells.append(_spread(crf - independent))
        lines.append(cells)
    heads = [head for title in MEASURES.values() for head in (title, "gain")]
    return frame.table(lines, ["images", "draws", *heads])


def _values(rows: Rows, model: str, name: str) -> Any:
    return np.array([row["models"][model][name] for row in rows])


def _spread(values: Any) -> str:
    """The mean, and the least and the most of several draws."""
    low, high = 100 * values.min(), 100 * values.max()
    text = f"{100 * values.mean():+.2f}"
    return text if len(values) == 1 else f"{text} ({low:+.2f} to {high:+.2f})"


def _backbones(rows: Rows) -> str:
    lines = []
    whole = max(row["images"] for row in rows)
    for row in (one for one in rows if one["images"] == whole):
        cells = [row["backbone"]]
        for name in MEASURES:
            independent, crf = (row["models"][model][name] for model in ("independent", "crf"))
            cells.append(f"{percent(independent)} -> {percent(crf)}")
            cells.append(frame.gain(row["difference"][name]))
        lines.append(cells)
    heads = [head for title in MEASURES.values() for head in (title, "gain [95 %]")]
    return frame.table(lines, ["backbone", *heads])


def draw(rows: Rows, path: Path) -> None:
    """Both models against the number of images, a panel a measure; bars from least to most."""
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(11, 3.4), layout="constrained")
    part = [row for row in rows if row["backbone"] == "lite0"]
    sizes = sorted({row["images"] for row in part})
    for panel, (name, title) in zip(panels, MEASURES.items(), strict=True):
        for model, colour in (("independent", "tab:gray"), ("crf", "tab:blue")):
            values = [
                100 * _values([row for row in part if row["images"] == size], model, name)
                for size in sizes
            ]
            means = np.array([one.mean() for one in values])
            low = means - [one.min() for one in values]
            high = [one.max() for one in values] - means
            label = "CRF" if model == "crf" else model
            panel.errorbar(
                sizes, means, yerr=[low, high], color=colour, label=label, marker="o", capsize=3
            )
        panel.set(xscale="log", xlabel="training images", ylabel=title)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
