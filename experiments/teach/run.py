"""Count the answers until an archive's tags are known, by what is asked and who learns.

    python -m experiments.teach.run --data TABLE --out FILE
    python -m experiments.teach.run [--quick]

A simulated person answers from the truth about an archive of training photos; mean average
precision over all labels is measured on test photos. It starts from no label, or from half of the
labels, drawn, which a model fitted on other training photos knows; then the others are taught. See
`METHODS` for who asks what.

A second table says how often the intervals of `estimate_quality` hold the truth, on archives of
test photos.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.frame import Rows, percent
from experiments.teach.learners import Learner, LogisticLearner, OurLearner, World
from experiments.teach.person import Order, teach
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import Run
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import MlcrfError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.metrics import Ranking
from mlcrf.review.quality import Estimate, estimate_quality
from mlcrf.rules import Rules

STARTS = ("nothing", "half known")
MARKS = [0, 100, 200, 350, 500, 700, 1000, 1400, 2000]
FURTHER = [2800, 4000]  # answers in random order
_PAGE, _RANDOM = Order(typical=True, spot_checks=True), Order(uncertain=False)
METHODS: dict[str, tuple[Callable[[World], Learner], Order]] = {
    "page": (lambda world: OurLearner(world, coupled=True), _PAGE),
    "page without couplings": (lambda world: OurLearner(world, coupled=False), _PAGE),
    "page in bulk": (lambda world: OurLearner(world, coupled=True), replace(_PAGE, at_once=8)),
    "page, first photo by chance": (
        lambda world: OurLearner(world, coupled=True),
        replace(_PAGE, typical=False),
    ),
    "uncertainty": (LogisticLearner, Order()),
    "random": (lambda world: OurLearner(world, coupled=True), _RANDOM),
    "random, logistic regression": (LogisticLearner, _RANDOM),
}
COMPARED_AT = (500, 1000, 2000, 4000)
COVERED = ("page", "random")
_COVERED_AT = [200, 500, 1000, 2000]
_ARCHIVE, _TEST, _OTHERS = 3000, 5000, 2000  # most photos
_FIT: dict[str, Any] = {"penalties": (0.3,), "pairwise_penalties": (0.01,)}


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
Checks = dict[tuple[str, int], Rows]  # by method and answers


def main() -> None:
    """Teach by every method, from every start, for every seed; keep the figures and print them."""
    arguments = frame.read_options(
        __doc__, "teach", seeds={"type": int, "default": 2, "help": "archives that are drawn"}
    )
    arguments.seeds = 1 if arguments.quick else arguments.seeds
    arguments.resamples = 10 if arguments.quick else 100
    try:
        data = _answerable(frame.photos(arguments))
        points: Points = {}
        checks: Checks = {}
        for seed in range(arguments.seeds):
            _teach_all(data, arguments, seed, points)
            _cover(data, arguments, seed, checks)
            results = _summarise(arguments, points, checks)
            frame.keep(arguments, **results, archives=seed + 1)
    except MlcrfError as error:
        raise SystemExit(str(error)) from error
    print("\n\n".join(tables(results).values()))


def _answerable(data: Manifest) -> Manifest:
    """Return the photos of which every label is known, with labels as if none implied another."""
    known = np.flatnonzero((data.targets >= 0).all(1))
    return replace(data.rows(known), rules=Rules())


def _marks(arguments: argparse.Namespace, order: Order) -> list[int]:
    if arguments.quick:
        return [0, 50, 100]
    return MARKS if order.uncertain else MARKS + FURTHER


def _teach_all(data: Manifest, arguments: argparse.Namespace, seed: int, points: Points) -> None:
    """Add the figures of one seed by method."""
    for start in STARTS:
        world = _draw(data, arguments, seed, start)
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


def _cover(data: Manifest, arguments: argparse.Namespace, seed: int, checks: Checks) -> None:
    """Add, by method and answers, whether intervals of estimated errors hold the truth."""
    marks = _marks(arguments, _PAGE)[1:] if arguments.quick else _COVERED_AT
    world = _draw(data, arguments, seed, "nothing", of_test=True)
    for method in COVERED:
        learner = OurLearner(world, coupled=True)
        for mark, answers in teach(learner, world, METHODS[method][1], marks, seed):
            checks.setdefault((method, mark), []).extend(_check(learner, world, answers))


def _summarise(arguments: argparse.Namespace, points: Points, checks: Checks) -> dict[str, Any]:
    """Return the figures of all seeds so far."""
    curves = {
        (start, method): Curve(_marks(arguments, METHODS[method][1]), _over_seeds(np.array(found)))
        for (start, method), found in points.items()
    }
    rows = [row for key, curve in curves.items() for row in _points(*key, curve)]
    coverage = [
        {"method": method, "answers": answers, "estimates": len(found)}
        | {
            f"{name}_{what}": float(np.mean([one[name][what] for one in found]))
            for name in ("right", "missed")
            for what in ("covered", "width", "truth")
        }
        for (method, answers), found in checks.items()
        if found
    ]
    return {"rows": rows, "compared": _compare(curves), "coverage": coverage}


def _draw(
    data: Manifest, arguments: argparse.Namespace, seed: int, start: str, *, of_test: bool = False
) -> World:
    """Return an archive of drawn photos, test photos, and the model that is there first."""
    rng = np.random.default_rng(seed)
    splits = np.array(data.splits)
    pool = rng.permutation(np.flatnonzero((splits == Split.TEST) == of_test))
    archive, others = np.split(pool, [min(_ARCHIVE, len(pool) // 2)])
    test = np.random.default_rng(0).permutation(np.flatnonzero(splits == Split.TEST))[:_TEST]
    order = rng.permutation(len(data.labels))
    run, count = None, len(order) // 2
    if start != "nothing":
        run = _fit_first(data.rows(others[:_OTHERS]), order[:count], seed, arguments)
    archived, tested = data.rows(archive), data.rows(test)
    backbone = make_backbone(find_spec(TrainSettings().backbone))
    extractor = FeatureExtractor(backbone, cache_dir=cache_dir(None))
    return World(
        np.asarray(extractor.matrix(archived.images)),
        torch.from_numpy(archived.targets[:, order]).long(),
        np.asarray(extractor.matrix(tested.images)),
        tested.targets[:, order],
        run,
    )


def _fit_first(
    data: Manifest, columns: NDArray[np.int64], seed: int, arguments: argparse.Namespace
) -> Run:
    """Return a run that knows some of the labels."""
    part = replace(
        data,
        targets=data.targets[:, columns],
        labels=LabelSpace(tuple(list(data.labels)[column] for column in columns)),
    )
    settings = TrainSettings(seed=seed, **(frame.QUICK if arguments.quick else _FIT))
    with tempfile.TemporaryDirectory() as folder:
        return frame.trained(part, Path(folder) / "run", settings)


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


def _check(learner: OurLearner, world: World, answers: Tensor) -> Rows:
    """Return for each tag that has an estimate whether its intervals hold the truth."""
    taught, rows = learner.taught, []
    assert taught is not None
    for at, label in enumerate(taught.columns.tolist()):
        given, tagged = answers[:, label], taught.log_odds[:, at] > 0
        quality = estimate_quality(taught.log_odds[:, at], given, tagged)
        if quality is not None:
            is_left = (given == UNKNOWN) & (world.truth[:, label] == 1)
            right, missed = int((is_left & tagged).sum()), int((is_left & ~tagged).sum())
            rows.append(
                {"right": _hold(quality.right, right), "missed": _hold(quality.missed, missed)}
            )
    return rows


def _hold(estimate: Estimate, truth: int) -> dict[str, float]:
    covered = estimate.low <= truth <= estimate.high
    return {"covered": covered, "width": estimate.high - estimate.low, "truth": truth}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`curves`: by answers; `compared`: what the page needs; `coverage`: of the estimates."""
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
    lines = []
    for row in results["coverage"]:
        cells = [row["method"], f"{row['answers']:,}", str(row["estimates"])]
        for name in ("right", "missed"):
            cells.append(f"{row[f'{name}_covered']:.0%}")
            cells.append(f"{row[f'{name}_truth']:.0f}, {row[f'{name}_width']:.0f}")
        lines.append(cells)
    head = ["method", "answers", "estimates", "right: covered", "mean truth, width"]
    made["coverage"] = frame.table(lines, [*head, "missed: covered", "mean truth, width"])
    return made


if __name__ == "__main__":
    main()
