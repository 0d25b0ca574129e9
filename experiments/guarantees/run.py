"""Does a promised precision hold, what does it cost, and where does it not hold?

python -m experiments.guarantees.run [--quick] [--data ANY TABLE [--test TABLE]]
                                     [--part known|shift] [--out FILE]

`--test` is for data that their publisher has split; figures replace those of `--out`. With `--part`
the figures of the other part are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import frame
from mlcrf.checkpoint import Run
from mlcrf.choices import PrecisionOf
from mlcrf.decoding import Decoder, Guarantee
from mlcrf.decoding.guarantees import LEFT_OUT, scores_within_rules
from mlcrf.inference import Independent
from mlcrf.labels import UNKNOWN

PRECISIONS = (0.9, 0.95, 0.99)
KNOWN = (0.0, 0.25, 0.5)
MODELS = {"independent": "independent", "crf": "CRF"}
CALIBRATION = 0.25  # share of the photos that each split calibrates on


@dataclass(frozen=True)
class Scored:
    """Scores of a model within the rules (N, L), and the targets that count."""

    scores: Tensor
    targets: Tensor


@torch.no_grad()
def score(run: Run, features: Tensor, targets: Tensor, share: float) -> dict[str, Scored]:
    """Return the scores of both models with a share of the labels known, which is not counted."""
    known = torch.from_numpy(run.rules.close(frame.partly_known(targets, share).numpy()))
    counted = torch.where(known == UNKNOWN, targets, UNKNOWN)
    ours = run.make_inference()(run.crf(features), known=known if share else None)
    theirs = Independent()(run.independent(features))
    return {
        "independent": Scored(theirs.marginals.double(), counted),
        "crf": Scored(scores_within_rules(ours.marginals, run.rules), counted),
    }


def thresholds(decoder: Decoder, labels: int) -> Tensor:
    """Return the threshold of each label (L,)."""
    value = decoder.threshold
    by_label = value if isinstance(value, tuple) else (value,) * labels
    return torch.tensor(by_label, dtype=torch.float64)


def written_by(decoder: Decoder, scores: Tensor) -> Tensor:
    """Return the labels that are written (N, L): at most the limit's number of highest score."""
    limit = decoder.at_most or scores.shape[1]
    ranks = scores.argsort(1, descending=True).argsort(1)
    return (scores > thresholds(decoder, scores.shape[1])) & (ranks < limit)


def calibrated(guarantee: Guarantee, run: Run, scored: Scored, rows: Tensor) -> Decoder:
    """The decoder that some of the photos support."""
    asked = Decoder.promising(guarantee)
    # scores are within the rules already, which a second time changes nothing
    return asked.calibrated(scored.scores[rows], scored.targets[rows], run.rules, "split")


def check(
    guarantee: Guarantee, run: Run, scored: Scored, splits: int, others: Scored | None = None
) -> dict[str, Any]:
    """Over random splits: how often precision is violated, and what is written.

    The population is all photos, of which each split draws its calibration images, so that the
    precision to be promised is known exactly; or other photos, if given.
    """
    generator = torch.Generator().manual_seed(1)
    count, labels = scored.targets.shape
    population = others or scored
    right, counted = population.targets == 1, population.targets != UNKNOWN
    violated, found, shares, precisions = [], [], [], []
    for _ in range(splits):
        rows = torch.randperm(count, generator=generator)[: int(CALIBRATION * count)]
        decoder = calibrated(guarantee, run, scored, rows)
        written = written_by(decoder, population.scores) & counted
        axis = 0 if guarantee.of is PrecisionOf.LABEL else (0, 1)
        number = written.sum(axis)
        precision = (written & right).sum(axis) / number.clamp(min=1)
        violated.append(((precision < guarantee.level) & (number > 0)).reshape(-1))
        if written.any():
            precisions.append(((written & right).sum() / written.sum()).item())
        found.append((thresholds(decoder, labels) < LEFT_OUT).sum().item())
        shares.append(((written & right).sum() / right.sum()).item())
    by_label = torch.stack(violated).double().mean(0)
    return {
        "violated": by_label.mean().item(),
        "violated_most": by_label.max().item(),
        "labels": float(np.mean(found)),
        "share": float(np.mean(shares)),
        "precision_found": float(np.mean(precisions)) if precisions else None,
        "splits_writing": len(precisions) / splits,
    }


def rows_of(
    run: Run, scored: dict[str, Scored], splits: int, **about: Any
) -> Iterator[dict[str, Any]]:
    """One row per model, precision and kind of promise."""
    for model, one in scored.items():
        for of in PrecisionOf:
            for precision in PRECISIONS:
                asked = Guarantee(precision, of=of)
                row = {"model": model, "of": of.value, "precision": precision} | about
                yield row | check(asked, run, one, splits)


def main() -> None:
    """Score each photo once, split often, and keep the figures."""
    more = {
        "photos": {"type": int, "default": 4000},
        "shifted": {"type": int, "default": 600},
        "test": {"type": Path},
        "part": {"choices": ["all", "known", "shift"], "default": "all"},
    }
    arguments = frame.read_options(__doc__, "guarantees", **more)
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets.astype(np.int64))
    splits = 5 if arguments.quick else 200
    rows: frame.Rows = []
    if arguments.part != "all":
        kept = frame.earlier(arguments)["rows"]
        rows = [row for row in kept if ("shift" in row) != (arguments.part == "shift")]
    plain = score(run, features, targets, 0.0)
    for share in () if arguments.part == "shift" else KNOWN:
        rows += rows_of(run, score(run, features, targets, share), splits, known=share)
        frame.keep(arguments, rows, images=len(test), labels=len(run.labels))
    number = 50 if arguments.quick else arguments.shifted
    few = test.rows(np.arange(min(number, len(test))))
    is_shifted = arguments.part != "known" and not test.feature_names
    for name, change in frame.SHIFTS.items() if is_shifted else ():
        features = frame.shifted(run, few, change)
        scored = score(run, features, targets[: len(few)], 0.0)
        for model, one in scored.items():
            asked = Guarantee(0.9, of=PrecisionOf.ALL)
            row = {"model": model, "of": "all", "precision": 0.9, "shift": name}
            row |= {"photos": len(few)}
            rows.append(row | check(asked, run, plain[model], splits, one))
    frame.keep(arguments, rows, images=len(test), labels=len(run.labels))
    print("\n\n".join(tables({"rows": rows}).values()))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`label` and `all`: what is promised and written by known labels; `shift`: on other photos."""
    found = {}
    for of, title in (("label", "violated most, %"), ("all", "violated, %")):
        lines = []
        for row in results["rows"]:
            if row["of"] == of and "known" in row:
                lines.append(
                    [
                        f"{100 * row['known']:.0f}",
                        f"{100 * row['precision']:.0f}",
                        MODELS[row["model"]],
                        f"{100 * row['violated_most']:.1f}",
                        f"{row['labels']:.1f}",
                        f"{100 * row['share']:.1f}",
                    ]
                )
        head = ["known, %", "precision, %", "model", title, "labels written", "tags written, %"]
        found[of] = frame.table(lines, head)
    lines = [
        [
            row["shift"],
            MODELS[row["model"]],
            f"{100 * row['violated']:.1f}",
            "-" if row["precision_found"] is None else f"{100 * row['precision_found']:.1f}",
            f"{100 * row['splits_writing']:.1f}",
            f"{100 * row['share']:.1f}",
        ]
        for row in results["rows"]
        if "shift" in row
    ]
    if lines:
        head = ["photos", "model", "violated, %", "precision, mean, %", "splits that write, %"]
        head.append("tags written, %")
        found["shift"] = frame.table(lines, head)
    return found


if __name__ == "__main__":
    main()
