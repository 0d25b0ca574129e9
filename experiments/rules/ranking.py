"""Why do rules change mean average precision? For several draws of the training photos, by label.

    python -m experiments.rules.ranking [--data FOLDER] [--draws N] [--quick]

Runs without rules and with `implications.txt` learn from 300 photos of im1 to im10000, drawn anew
for each draw (and 100 for validation); and the rules are added to the run without them, for
inference only. Average precision of each label on the test photos, as differences to the run
without rules; labels in groups by the number of training photos that have them. Intervals are of
means over draws (twice the standard error).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import frame
from experiments.rules.run import RULES, rules_of, trained_with
from mlcrf.data.manifest import Manifest, Split
from mlcrf.inference import Exact
from mlcrf.metrics import Ranking
from mlcrf.model import LabelCrf
from mlcrf.rules import Rules

_PHOTOS, _HELD_OUT = 300, 100
_AT_ONCE = 1024
_GROUPS = {"fewer than 10": (0, 10), "10 to 29": (10, 30), "30 or more": (30, _PHOTOS + 1)}


def main() -> None:
    """Train, score each label, and keep the figures."""
    arguments = frame.read_options(
        __doc__, "rules", "ranking.json", draws={"type": int, "default": 6}
    )
    data = frame.photos(arguments, 24)
    rules = rules_of(RULES["implications"], data)
    test = data.part(Split.TEST)
    rows: frame.Rows = []
    for draw in range(1 if arguments.quick else arguments.draws):
        part = _drawn(data, draw)
        plain = trained_with(arguments, part, Rules(), f"drawn-{draw}-none")
        run = trained_with(arguments, part, rules, f"drawn-{draw}-implications")
        features = frame.features_of(run, test)
        found = {
            "without": _precisions(plain.crf, plain.crf.rules, features, test),
            "with": _precisions(run.crf, rules, features, test),
            "for inference only": _precisions(plain.crf, rules, features, test),
        }
        positives = (part.part(Split.TRAIN).targets == 1).sum(0)
        for column, label in enumerate(data.labels):
            about = {"draw": draw, "label": label, "positives": int(positives[column])}
            about |= {"child": any(column == child for child, _ in rules.pairs)}
            rows.append(about | {name: float(one[column]) for name, one in found.items()})
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["ranking"])


def _drawn(data: Manifest, draw: int) -> Manifest:
    """Return photos to learn from, drawn from those that are not for testing."""
    splits = np.array(data.splits)
    order = np.random.default_rng(draw).permutation(np.flatnonzero(splits != Split.TEST))
    new = [Split.TRAIN] * _PHOTOS + [Split.VALIDATION] * _HELD_OUT
    return replace(data.rows(order[: len(new)]), splits=tuple(new))


@torch.no_grad()
def _precisions(
    model: LabelCrf, rules: Rules, features: torch.Tensor, test: Manifest
) -> NDArray[np.float64]:
    """Return the average precision of each label by the CRF under these rules."""
    exact = Exact().sharing()
    marginals = torch.cat(
        [exact(replace(model(part), rules=rules)).marginals for part in features.split(_AT_ONCE)]
    )
    every = np.ones(len(test))
    return np.array(
        [
            Ranking(scores, targets).average_precision(every)
            for scores, targets in zip(marginals.double().numpy().T, test.targets.T, strict=True)
        ]
    )


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`ranking`: what rules change, by groups of labels; `ranking-of-draws`: mAP of each draw."""
    rows = results["rows"]
    draws = sorted({row["draw"] for row in rows})
    chosen = {"all": rows, "that imply none": [row for row in rows if not row["child"]]}
    children = [row for row in rows if row["child"]]
    for name, (least, most) in _GROUPS.items():
        chosen[f"that imply another, {name}"] = [
            row for row in children if least <= row["positives"] < most
        ]
    lines = []
    for name, group in chosen.items():
        if not group:
            continue
        cells = [name, f"{len(group) / len(draws):.1f}", f"{100 * _mean(group, 'without'):.2f}"]
        for way in ("with", "for inference only"):
            shares = []
            for draw in draws:
                mine = [row[way] - row["without"] for row in group if row["draw"] == draw]
                shares.append(len(draws) * sum(mine) / len(group))
            error = 2 * float(np.std(shares, ddof=1)) / len(shares) ** 0.5 if len(shares) > 1 else 0
            cells.append(f"{100 * float(np.mean(shares)):+.2f} +- {100 * error:.2f}")
        lines.append(cells)
    head = ["labels", "per draw", "AP without, %", "with", "for inference only"]
    each = []
    for draw in draws:
        mine = [row for row in rows if row["draw"] == draw]
        worst = min(mine, key=lambda row: row["with"] - row["without"])
        each.append(
            [
                str(draw),
                frame.percent(_mean(mine, "without")),
                frame.percent(_mean(mine, "with")),
                f"{worst['label']}, {worst['positives']}: "
                f"{100 * (worst['with'] - worst['without']):+.1f}",
            ]
        )
    titles = ["draw", "mAP without, %", "with", "label that loses most, its photos"]
    return {"ranking": frame.table(lines, head), "ranking-of-draws": frame.table(each, titles)}


def _mean(rows: frame.Rows, way: str) -> float:
    return float(np.mean([row[way] for row in rows]))


if __name__ == "__main__":
    main()
