"""Sizes of the families of label sets that hold the right one, and the share that do.

python -m experiments.coverage.run [--quick] [--data ANY TABLE [--test TABLE]] [--photos N]
                                   [--shifted N]

The figures of other data are kept: `--data` replaces those of the same data alone.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import frame
from experiments.coverage import tempered
from experiments.coverage.tempered import CALIBRATION, among
from mlcrf.checkpoint import Run
from mlcrf.crf import Potentials
from mlcrf.decoding import Coverage, make_ranker, rank_targets
from mlcrf.decoding.family_measures import summarise
from mlcrf.inference import Independent, InferenceMethod
from mlcrf.inference.ranking import Leaders, Ranker, Standing

LEVELS = (0.8, 0.9, 0.95)
KNOWN = (0.0, 0.25, 0.5)
MODELS = {"independent": "independent", "crf": "CRF"}


@dataclass(frozen=True)
class Ranked:
    """A model's ranking of the label sets of photos, and the places of the right ones."""

    ranker: Ranker
    potentials: Potentials
    known: Tensor | None
    standing: Standing

    def leaders(self, coverage: Coverage, shares: Tensor) -> Leaders:
        """The families of the photos."""
        assert coverage.reach is not None
        return self.ranker.leaders(self.potentials, coverage.reach, shares, known=self.known)


@torch.no_grad()
def rank(run: Run, features: Tensor, targets: Tensor, share: float) -> dict[str, Ranked]:
    """The rankings of both models with a share of the labels known."""
    known = frame.partly_known(targets, share)
    closed = torch.from_numpy(run.rules.close(known.numpy()))
    models: dict[str, tuple[Potentials, InferenceMethod, Tensor]] = {
        "independent": (run.independent(features), Independent(), known),
        "crf": (run.crf(features), run.make_inference(), closed),
    }
    found = {}
    for model, (potentials, method, told) in models.items():
        ranker, given = make_ranker(method, potentials), told if share else None
        standing = rank_targets(ranker, potentials, targets, known=given)
        found[model] = Ranked(ranker, potentials, given, standing)
    return found


def check(
    ranked: Ranked, asked: Coverage, splits: int, others: Ranked | None = None
) -> dict[str, Any]:
    """Coverage over random splits, and the families at the median reach of these.

    Each split draws calibration photos and counts on the rest of the photos, or on others.
    """
    generator = torch.Generator().manual_seed(1)
    known = (~ranked.standing.ahead.isnan()).nonzero().squeeze(1)
    shares = _shares(asked, len(ranked.standing.ahead))
    found, reaches = [], []
    for split in range(splits):
        order = known[torch.randperm(len(known), generator=generator)]
        few, rest = order.split([size := int(CALIBRATION * len(order)), len(order) - size])
        coverage = asked.calibrated(among(ranked.standing, few), "split", seed=split)
        counted = others.standing if others else among(ranked.standing, rest)
        drawn = shares[: len(counted.ahead)] if others else shares[rest]
        found.append(float(coverage.covers(counted, drawn).double().mean()))
        reaches.append(coverage.reach or 0.0)
    typical = Coverage(asked.level, asked.randomised, float(np.median(reaches)))
    measured = others or ranked
    count = len(measured.standing.ahead)
    families = summarise(torch.ones(0), measured.leaders(typical, shares[:count]))
    return {
        "level": asked.level,
        "randomised": asked.randomised,
        "covered": float(np.mean(found)),
        "deviation": float(np.std(found)),
        "reach": typical.reach,
        "mean": families.mean_sets,
        "median": families.median_sets,
        "log2": families.mean_log2_sets,
        "open": families.open_labels,
        "exact": families.is_exact,
    }


def _shares(asked: Coverage, count: int) -> Tensor:
    numbers = np.arange(count, dtype=np.float32)[:, None]
    return asked.shares(numbers)


def main() -> None:
    """Rank each photo's label sets once, split often, and keep the figures."""
    more = {
        "photos": {"type": int, "default": 4000},
        "shifted": {"type": int, "default": 600},
        "test": {"type": Path},
    }
    arguments = frame.read_options(__doc__, "coverage", **more)
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets.astype(np.int64))
    splits = 5 if arguments.quick else 200
    about = {"data": data.name, "labels": len(run.labels), "images": len(test)}
    kept = frame.earlier(arguments)
    rows = [row for row in kept.get("rows", []) if row["data"] != data.name]
    others = {"tempered": kept["tempered"]} if "tempered" in kept else {}
    plain: dict[str, Ranked] = {}
    for share in KNOWN:
        ranked = rank(run, features, targets, share)
        plain = plain or ranked
        for model, one in ranked.items():
            for level in LEVELS:
                for randomised in (False, True) if not share else (False,):
                    found = check(one, Coverage(level, randomised), splits)
                    rows.append({"model": model, "known": share} | about | found)
            frame.keep(arguments, rows, **others)
    number = 50 if arguments.quick else arguments.shifted
    few = test.rows(np.arange(min(number, len(test))))
    for name, change in {} if test.feature_names else frame.SHIFTS.items():
        ranked = rank(run, frame.shifted(run, few, change), targets[: len(few)], 0.0)
        for model, one in ranked.items():
            found = check(plain[model], Coverage(0.9), splits, one)
            rows.append({"model": model, "shift": name, "known": 0.0} | about | found)
    frame.keep(arguments, rows, **others)
    print("\n\n".join(tables({"rows": rows}).values()))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`families` of the first data, `randomised`, `shift`, and `tables` of the other data."""
    rows = results["rows"]
    first = rows[0]["data"]
    own = [row for row in rows if row["data"] == first and "shift" not in row]
    found = {}
    head = ["coverage, %", "model", "covered, %", "sets, mean", "median", "log2, mean", "open"]
    plain = [row for row in own if not row["randomised"]]
    lines = [[f"{100 * row['known']:.0f}", *_cells(row)] for row in plain]
    found["families"] = frame.table(lines, ["known, %", *head])
    lines = [_cells(row) for row in own if row["randomised"]]
    found["randomised"] = frame.table(lines, head)
    lines = [
        [f"{100 * row['known']:.0f}", f"{100 * row['level']:.0f}", *_saved(row, rows)]
        for row in plain
        if row["model"] == "crf"
    ]
    saved = ["sets, mean: smaller, %", "median: smaller, %", "geometric mean: smaller, %"]
    found["saved"] = frame.table(lines, ["known, %", "coverage, %", *saved])
    lines = [[row["shift"], *_cells(row)] for row in rows if "shift" in row]
    if lines:
        found["shift"] = frame.table(lines, ["photos", *head])
    lines = [
        [row["data"], str(row["labels"]), str(row["images"]), *_cells(row)]
        for row in rows
        if row["data"] != first and not row["known"] and not row["randomised"]
    ]
    if lines:
        found["tables"] = frame.table(lines, ["data", "labels", "rows", *head])
    return found | (tempered.tables(results) if "tempered" in results else {})


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{100 * row['level']:.0f}",
        MODELS[row["model"]],
        f"{100 * row['covered']:.1f} ± {100 * row['deviation']:.1f}",
        f"{row['mean']:.1f}",
        f"{row['median']:.0f}",
        f"{row['log2']:.2f}",
        f"{row['open']:.1f}",
    ]


def _saved(row: dict[str, Any], rows: frame.Rows) -> list[str]:
    same = ("data", "known", "level", "randomised")
    (other,) = (
        one
        for one in rows
        if one["model"] == "independent"
        and "shift" not in one
        and all(one[key] == row[key] for key in same)
    )
    shares = [row["mean"] / other["mean"], row["median"] / other["median"]]
    shares.append(math.exp2(row["log2"] - other["log2"]))
    return [f"{100 * (1 - share):.0f}" for share in shares]


if __name__ == "__main__":
    main()
