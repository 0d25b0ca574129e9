"""Does a promise hold if the calibration images have chosen the factors of potentials, too?

python -m experiments.coverage.tempered [--quick] [--data ANY TABLE [--test TABLE]] [--photos N]

`mlcrf calibrate` and `mlcrf train` choose factors of unaries and couplings by the images that
thresholds and reaches come from afterwards. Here each of 200 splits chooses them from a grid by the
joint likelihood of its calibration images, without asking whether they help, which adapts more than
the program does. The figures of other data are kept.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import frame
from mlcrf.crf import Potentials
from mlcrf.decoding import Coverage, Decoder, Guarantee, make_ranker, rank_targets
from mlcrf.decoding.guarantees import scores_within_rules
from mlcrf.inference import InferenceMethod, log_mass
from mlcrf.inference.ranking import Standing
from mlcrf.rules import Rules

CALIBRATION = 0.25  # share of the photos that each split calibrates on
UNARY = (0.9, 0.95, 1.0, 1.05, 1.1)  # of a finished run, which may have factors already
PAIRWISE = (0.85, 0.92, 1.0, 1.08, 1.18)
COVERAGE, PRECISION = 0.9, 0.8
WAYS = {
    "none": "none",
    "same": "the images of the promise",
    "apart": "one half of them, the promise the other",
}


@dataclass(frozen=True)
class Point:
    """Probabilities and standings of N photos under a CRF with some factors."""

    factors: tuple[float, float]
    loss: Tensor
    scores: Tensor
    standing: Standing


def among(standing: Standing, rows: Tensor) -> Standing:
    """The places of some of the photos."""
    return Standing(*(part[rows] for part in standing))


@torch.no_grad()
def look(
    potentials: Potentials, targets: Tensor, method: InferenceMethod, factors: tuple[float, float]
) -> Point:
    """Rank the right label sets of photos, and return their loss, with these factors."""
    scaled = potentials.scaled(*factors)
    posterior = method(scaled)
    loss = posterior.log_partition - log_mass(method, scaled, targets)
    scores = scores_within_rules(posterior.marginals, scaled.rules)
    return Point(factors, loss, scores, rank_targets(make_ranker(method, scaled), scaled, targets))


def check(points: list[Point], targets: Tensor, rules: Rules, splits: int) -> frame.Rows:
    """Over random splits: coverage and precision by each way to choose factors."""
    generator = torch.Generator().manual_seed(1)
    plain = next(one for one in points if one.factors == (1.0, 1.0))
    losses = torch.stack([one.loss for one in points])
    found: dict[str, list[tuple[float, Tensor, Point]]] = {way: [] for way in WAYS}
    count = len(targets)
    for _ in range(splits):
        order = torch.randperm(count, generator=generator)
        few, rest = order[: int(CALIBRATION * count)], order[int(CALIBRATION * count) :]
        for way in WAYS:
            choosing, promising = (few, few) if way != "apart" else few.chunk(2)
            best = int(losses[:, choosing].double().sum(1).argmin())
            point = plain if way == "none" else points[best]
            coverage = Coverage(COVERAGE).calibrated(among(point.standing, promising), "split")
            standing = among(point.standing, rest)
            covered = coverage.covers(standing, torch.ones(len(rest))).double().mean()
            asked = Decoder.promising(Guarantee(PRECISION))
            decoder = asked.calibrated(point.scores[promising], targets[promising], rules, "split")
            written = point.scores > torch.tensor(decoder.threshold, dtype=torch.float64)
            right = (written & (targets == 1)).sum(0)
            broken = (right < PRECISION * written.sum(0)).double()
            found[way].append((float(covered), broken, point))
    return [
        {
            "way": way,
            "covered": float(np.mean([one[0] for one in values])),
            "deviation": float(np.std([one[0] for one in values])),
            "violated_most": float(torch.stack([one[1] for one in values]).mean(0).max()),
            "violated": float(torch.stack([one[1] for one in values]).mean()),
            "choices": len({one[2].factors for one in values}),
            "unary": float(np.mean([one[2].factors[0] for one in values])),
            "pairwise": float(np.mean([one[2].factors[1] for one in values])),
        }
        for way, values in found.items()
    ]


def main() -> None:
    """Look at each photo once for every pair of factors, split often, keep the figures."""
    more: dict[str, dict[str, Any]] = {
        "photos": {"type": int, "default": 3000},
        "test": {"type": Path},
    }
    arguments = frame.read_options(__doc__, "coverage", **more)
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets.astype(np.int64))
    whole = (targets >= 0).all(1)
    with torch.no_grad():
        potentials, method = run.crf(features[whole]), run.make_inference()
    targets = targets[whole]
    grid = list(product(UNARY, PAIRWISE))
    points = [look(potentials, targets, method, factors) for factors in grid]
    about = {"data": data.name, "labels": len(run.labels), "images": len(targets)}
    results = frame.earlier(arguments)
    rows = results.get("tempered", {}).get("rows", [])
    rows = [row for row in rows if row["data"] != data.name]
    splits = 5 if arguments.quick else 200
    about["commit"] = frame.commit()
    rows += [about | row for row in check(points, targets, run.crf.rules, splits)]
    results["tempered"] = {"rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(tables(results)["tempered"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`tempered`: coverage and precision by what chose the factors."""
    lines = [
        [
            row["data"],
            str(row["images"]),
            WAYS[row["way"]],
            f"{row['unary']:.2f}, {row['pairwise']:.2f}",
            str(row["choices"]),
            f"{100 * row['covered']:.1f} ± {100 * row['deviation']:.1f}",
            f"{100 * row['violated']:.1f}",
            f"{100 * row['violated_most']:.1f}",
        ]
        for row in results["tempered"]["rows"]
    ]
    head = ["data", "images", "factors chosen by", "their means", "different pairs", "covered, %"]
    head += ["precision violated, mean, %", "most, %"]
    return {"tempered": frame.table(lines, head)}


if __name__ == "__main__":
    main()
