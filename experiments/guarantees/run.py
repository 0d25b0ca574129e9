"""Does a promised precision hold, what does it cost, and where does it not hold?

python -m experiments.guarantees.run [--quick] [--data ANY TABLE [--test TABLE]]
                                     [--part known|shift|frequency] [--out FILE]

`--test` is for data that their publisher has split. The figures of other data are kept: `--data`
replaces those of the same data alone, and with `--part` those of this part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
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
OF = {"label": "each label", "all": "all together"}
PARTS = ("known", "shift", "frequency")
RARER = (2, 4)  # times, of a label, in a collection that is drawn by it
CALIBRATION = 0.25  # share of the photos that each split calibrates on


@dataclass(frozen=True)
class Scored:
    """Scores of a model within the rules (N, L), and the targets that count."""

    scores: Tensor
    targets: Tensor

    def first(self, count: int) -> "Scored":
        """The first so many photos."""
        return Scored(self.scores[:count], self.targets[:count])


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
        "worst": run.labels.names[by_label.argmax()] if len(by_label) > 1 else "",
        "labels_found": float(np.mean(found)),
        "share": float(np.mean(shares)),
        "precision_found": float(np.mean(precisions)) if precisions else None,
        "splits_writing": len(precisions) / splits,
    }


def check_rarer(
    guarantee: Guarantee, run: Run, scored: Scored, splits: int, factor: float
) -> dict[str, Any]:
    """Over random splits: how often precision is violated where one label is rarer.

    For each label in turn the population is a collection that is drawn by it: photos that have it
    come so many times more seldom, so that precision is that of weighted photos. A promise of each
    label is counted for the label that is rarer, one of all labels together for all; of the labels
    that splits write.
    """
    generator = torch.Generator().manual_seed(1)
    count, labels = scored.targets.shape
    right, counted = scored.targets == 1, scored.targets != UNKNOWN
    weights = torch.where(right, 1 / factor, 1.0).double()
    writing, violated, total = torch.zeros(3, labels, dtype=torch.float64)
    for _ in range(splits):
        rows = torch.randperm(count, generator=generator)[: int(CALIBRATION * count)]
        decoder = calibrated(guarantee, run, scored, rows)
        written = written_by(decoder, scored.scores) & counted
        found, hits = written.double(), (written & right).double()
        if guarantee.of is PrecisionOf.ALL:
            found, hits = (one.sum(1, keepdim=True) for one in (found, hits))
        number = (weights * found).sum(0)
        precision = (weights * hits).sum(0) / number.clamp(min=1e-12)
        writing += number > 0
        violated += (precision < guarantee.level) & (number > 0)
        total += precision
    promised = (writing > 0).nonzero().squeeze(1)
    if not len(promised):
        return {"promised": 0}
    shares, precisions = (one[promised] / writing[promised] for one in (violated, total))
    worst = promised[precisions.argmin()]
    return {
        "promised": len(promised),
        "violated": shares.mean().item(),
        "violated_most": shares.max().item(),
        "precision_found": precisions.mean().item(),
        "worst": run.labels.names[worst],
        "precision_of_worst": precisions.min().item(),
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
    more: dict[str, dict[str, Any]] = {
        "photos": {"type": int, "default": 4000},
        "shifted": {"type": int, "default": 600},
        "test": {"type": Path},
        "part": {"choices": ["all", *PARTS], "default": "all"},
    }
    arguments = frame.read_options(__doc__, "guarantees", **more)
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets.astype(np.int64))
    splits = 5 if arguments.quick else 200
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    earlier = frame.earlier(arguments).get("rows", [])
    kept = [row for row in earlier if row["data"] != data.name or row["part"] not in parts]
    plain = score(run, features, targets, 0.0)
    found: dict[str, frame.Rows] = {part: [] for part in parts}
    if "known" in parts:
        for share in KNOWN:
            scored = score(run, features, targets, share)
            found["known"] += rows_of(run, scored, splits, known=share)
    if "shift" in parts and not test.feature_names:
        number = 50 if arguments.quick else arguments.shifted
        few = test.rows(np.arange(min(number, len(test))))
        for name, change in frame.SHIFTS.items():
            changed = score(run, frame.shifted(run, few, change), targets[: len(few)], 0.0)
            unchanged = {model: one.first(len(few)) for model, one in plain.items()}
            for of, (model, one) in product(PrecisionOf, changed.items()):
                asked = Guarantee(0.9, of=of)
                row = {"model": model, "of": of.value, "precision": 0.9, "shift": name}
                row |= {"before": check(asked, run, plain[model], splits, unchanged[model])}
                found["shift"].append(row | check(asked, run, plain[model], splits, one))
    if "frequency" in parts:
        for of in PrecisionOf:
            for factor in RARER:
                for model, one in plain.items():
                    row = {"model": model, "of": of.value, "precision": 0.9, "rarer": factor}
                    rarer = check_rarer(Guarantee(0.9, of=of), run, one, splits, factor)
                    found["frequency"].append(row | rarer)
    about: dict[str, Any] = {"data": data.name, "labels": len(run.labels), "images": len(test)}
    about["commit"] = frame.commit()
    rows = kept + [about | {"part": part} | row for part in parts for row in found[part]]
    frame.keep(arguments, rows)
    print("\n\n".join(tables({"rows": rows}).values()))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`label` and `all`: what is promised and written by known labels; `shift`: on other photos.

    `frequency`: where a label is rarer; all these of the first data. `tables`: of other data.
    """
    rows = results["rows"]
    first = rows[0]["data"]
    own = [row for row in rows if row["data"] == first]
    found = {}
    head = ["precision, %", "model", "violated most, %", "labels written", "tags written, %"]
    for of in PrecisionOf:
        lines = [
            [f"{100 * row['known']:.0f}", *_cells(row)]
            for row in own
            if row["part"] == "known" and row["of"] == of
        ]
        if of is PrecisionOf.ALL:
            head = [title.replace("violated most", "violated") for title in head]
        found[of.value] = frame.table(lines, ["known, %", *head])
    if lines := [_shift_cells(row) for row in own if row["part"] == "shift"]:
        head = ["promise of", "photos", "model", "violated most, %", "label", "as they were, %"]
        head += ["precision, mean, %", "splits that write, %", "tags written, %"]
        found["shift"] = frame.table(lines, head)
    if lines := [_rarer_cells(row) for row in own if row["part"] == "frequency"]:
        head = ["promise of", "rarer", "model", "violated, mean, %", "violated, most, %"]
        found["frequency"] = frame.table(lines, [*head, "precision, mean, %", "least, %", "of"])
    lines = [
        [row["data"], f"{row['labels']}", f"{row['images']}", OF[row["of"]], *_cells(row)]
        for row in rows
        if row["data"] != first and row["part"] == "known" and not row["known"]
    ]
    if lines:
        head = ["data", "labels", "rows", "promise of", "precision, %", "model"]
        found["tables"] = frame.table(
            lines, [*head, "violated most, %", "labels written", "tags written, %"]
        )
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{100 * row['precision']:.0f}",
        MODELS[row["model"]],
        f"{100 * row['violated_most']:.1f}",
        f"{row['labels_found']:.1f}",
        f"{100 * row['share']:.1f}",
    ]


def _shift_cells(row: dict[str, Any]) -> list[str]:
    return [
        OF[row["of"]],
        row["shift"],
        MODELS[row["model"]],
        f"{100 * row['violated_most']:.1f}",
        row["worst"],
        f"{100 * row['before']['violated_most']:.1f}",
        "-" if row["precision_found"] is None else f"{100 * row['precision_found']:.1f}",
        f"{100 * row['splits_writing']:.1f}",
        f"{100 * row['share']:.1f}",
    ]


def _rarer_cells(row: dict[str, Any]) -> list[str]:
    about = [OF[row["of"]], f"{row['rarer']} times", MODELS[row["model"]]]
    if not row["promised"]:
        return [*about, *["-"] * 5]
    return [
        *about,
        f"{100 * row['violated']:.1f}",
        f"{100 * row['violated_most']:.1f}",
        f"{100 * row['precision_found']:.1f}",
        f"{100 * row['precision_of_worst']:.1f}",
        row["worst"],
    ]


if __name__ == "__main__":
    main()
