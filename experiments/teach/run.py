"""Count the answers until an archive's tags are known, by what is asked and who learns.

    python -m experiments.teach.run --data TABLE --out FILE
    python -m experiments.teach.run [--quick]

A simulated person answers from the truth about an archive of training photos; mean average
precision over all labels is measured on test photos. It starts from no label, or from half of the
labels, drawn, which a model fitted on other training photos knows; then the others are taught. See
`METHODS` for who asks what.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import frame
from experiments.frame import Rows, percent
from experiments.teach import estimates
from experiments.teach.archives import STARTS, answerable, draw_world
from experiments.teach.learners import Learner, LogisticLearner, OurLearner, World
from experiments.teach.person import PAGE, RANDOM, Order, teach
from mlcrf.data.manifest import Manifest
from mlcrf.errors import MlcrfError
from mlcrf.metrics import Ranking

MARKS = [0, 100, 200, 350, 500, 700, 1000, 1400, 2000]
FURTHER = [2800, 4000]  # answers in random order
METHODS: dict[str, tuple[Callable[[World], Learner], Order]] = {
    "page": (lambda world: OurLearner(world, coupled=True), PAGE),
    "page without couplings": (lambda world: OurLearner(world, coupled=False), PAGE),
    "page in bulk": (lambda world: OurLearner(world, coupled=True), replace(PAGE, at_once=8)),
    "page, first photo by chance": (
        lambda world: OurLearner(world, coupled=True),
        replace(PAGE, typical=False),
    ),
    "uncertainty": (LogisticLearner, Order()),
    "random": (lambda world: OurLearner(world, coupled=True), RANDOM),
    "random, logistic regression": (LogisticLearner, RANDOM),
}
COMPARED_AT = (500, 1000, 2000, 4000)


@dataclass(frozen=True)
class Curve:
    """Mean average precision by the number of answers.

    Attributes:
        answers: numbers of answers (M,).
        values: for each number, of all test photos and over all archives, then of resamples of
            photos and archives (M, 1 + R).
    """

    answers: list[int]
    values: NDArray[np.float64]


Curves = dict[tuple[str, str], Curve]  # by start and method
Points = dict[tuple[str, str], list[list[list[float]]]]  # the same, for each seed


def main() -> None:
    """Teach by every method, from every start, for every seed; keep the figures and print them."""
    arguments = frame.read_options(
        __doc__, "teach", seeds={"type": int, "default": 2, "help": "archives that are drawn"}
    )
    arguments.seeds = 1 if arguments.quick else arguments.seeds
    arguments.resamples = 10 if arguments.quick else 100
    try:
        data = answerable(frame.photos(arguments))
        points: Points = {}
        for seed in range(arguments.seeds):
            _teach_all(data, arguments, seed, points)
            results = _summarise(arguments, points)
            frame.keep(arguments, **results, archives=seed + 1)
    except MlcrfError as error:
        raise SystemExit(str(error)) from error
    print("\n\n".join(tables(results).values()))


def _marks(arguments: argparse.Namespace, order: Order) -> list[int]:
    if arguments.quick:
        return [0, 50, 100]
    return MARKS if order.uncertain else MARKS + FURTHER


def _teach_all(data: Manifest, arguments: argparse.Namespace, seed: int, points: Points) -> None:
    """Add the figures of one seed by method."""
    for start in STARTS:
        world = draw_world(data, arguments, seed, start)
        counts = _resample(len(world.test), arguments.resamples, seed)
        for method, (make, order) in METHODS.items():
            began, learner = perf_counter(), make(world)
            found = [
                _mean_average_precision(learner.test_scores(), world.test_truth, counts)
                for _ in teach(learner, world, order, _marks(arguments, order), seed)
            ]
            points.setdefault((start, method), []).append(found)
            values = ", ".join(percent(point[0]) for point in found)
            seconds = perf_counter() - began
            print(f"seed {seed}, {start}, {method}: {values} ({seconds:.0f} s)", flush=True)


def _summarise(arguments: argparse.Namespace, points: Points) -> dict[str, Any]:
    """Return the figures of all seeds so far."""
    curves = {
        (start, method): Curve(_marks(arguments, METHODS[method][1]), _over_seeds(np.array(found)))
        for (start, method), found in points.items()
    }
    rows = [row for key, curve in curves.items() for row in _points(*key, curve)]
    return {"rows": rows, "compared": _compare(curves)}


def _resample(count: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each photo counts: once, then in each resample (1 + R, N)."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn])


def _mean_average_precision(
    scores: NDArray[np.float64], truth: NDArray[np.int8], counts: NDArray[np.float64]
) -> list[float]:
    """Return the mean over labels with a positive, for each weighting of photos (1 + R,)."""
    rankings = [Ranking(scores[:, label], truth[:, label]) for label in range(truth.shape[1])]
    values = [[one.average_precision(weights) for one in rankings] for weights in counts]
    means: list[float] = np.nanmean(values, axis=1).tolist()
    return means


def _over_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over seeds, then over resampled seeds, (S, M, 1 + R) -> (M, 1 + R)."""
    count, _, samples = values.shape
    drawn = np.random.default_rng(0).integers(count, size=(samples, count))
    drawn[0] = np.arange(count)
    return np.stack([values[seeds, :, at].mean(0) for at, seeds in enumerate(drawn)], 1)


def _interval(samples: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(samples[1:], [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _points(start: str, method: str, curve: Curve) -> Rows:
    return [
        {"method": method, "start": start, "answers": answers, "map": float(values[0])}
        | _interval(values)
        for answers, values in zip(curve.answers, curve.values, strict=True)
    ]


def _compare(curves: Curves) -> Rows:
    """Return how many answers the page needs for what another method has after so many."""
    rows: Rows = []
    for (start, method), curve in curves.items():
        page = curves[start, "page"]
        reached = np.maximum.accumulate(page.values, axis=0)
        for answers, goal in zip(curve.answers, curve.values, strict=True):
            if method == "page" or (answers not in COMPARED_AT and answers != curve.answers[-1]):
                continue
            needed = [
                float(np.interp(level, known, page.answers))
                for level, known in zip(goal, reached.T, strict=True)
            ]
            rows.append(
                {"start": start, "method": method, "answers": answers, "map": float(goal[0])}
                | {"needed": needed[0]}
                | _interval(np.array(needed))
                | {"reached": bool(goal[0] <= reached[-1, 0])}
            )
    return rows


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`curves`: by answers; `compared`: what the page needs; those of `estimates`."""
    curves: dict[tuple[str, str], dict[int, str]] = {}
    for row in results["rows"]:
        low, high = percent(row["low"]), percent(row["high"])
        curve = curves.setdefault((row["start"], row["method"]), {})
        curve[row["answers"]] = f"{percent(row['map'])} [{low}, {high}]"
    marks = sorted({mark for curve in curves.values() for mark in curve})
    lines = [[*key, *(curve.get(mark, "") for mark in marks)] for key, curve in curves.items()]
    made = {"curves": frame.table(lines, ["start", "method", *(f"{mark:,}" for mark in marks)])}
    lines = []
    for row in results["compared"]:
        share, low, high = (row[key] / row["answers"] for key in ("needed", "low", "high"))
        needed = f"{row['needed']:,.0f}" if row["reached"] else f"more than {row['needed']:,.0f}"
        cells = [row["start"], row["method"], f"{row['answers']:,}", percent(row["map"])]
        lines.append([*cells, needed, f"{share:.0%} [{low:.0%}, {high:.0%}]"])
    head = ["start", "method", "its answers", "mAP, %", "page needs", "share"]
    made["compared"] = frame.table(lines, head)
    kept = Path(__file__).with_name("estimates.json")
    return made | estimates.tables(json.loads(kept.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
