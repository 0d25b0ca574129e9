"""Count how often estimates of a tag's quality hold the truth, and how wide they are.

    python -m experiments.teach.estimates --data FOLDER
    python -m experiments.teach.estimates --data FOLDER --training --way confirming --out FILE
    python -m experiments.teach.estimates [--quick]

A simulated person answers about archives of test photos, of which the prior of `estimate_quality`
has seen none, in each way of answering and from each start. At each number of answers every tag is
estimated that has enough of them. With `--training` the archives are those that the prior was
chosen on.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from experiments import frame
from experiments.frame import Rows
from experiments.teach.archives import STARTS, answerable, draw_world
from experiments.teach.learners import OurLearner, World
from experiments.teach.person import PAGE, RANDOM, Order, teach
from mlcrf.errors import MlcrfError
from mlcrf.labels import UNKNOWN
from mlcrf.review.quality import estimate_quality

WAYS: dict[str, Order] = {
    "page": PAGE,
    "page in bulk": replace(PAGE, at_once=8),
    "confirming": replace(PAGE, at_once=8, confirms=True),
    "random": RANDOM,
}
_MARKS = [200, 500, 1000]
_FIRST_SEED = 200  # of archives of test photos; of training photos it is 0
_RESAMPLES = 1000


def main() -> None:
    """Answer in every way, from every start, for every seed; keep the figures and print them."""
    arguments = frame.read_options(
        __doc__,
        "teach",
        "estimates.json",
        seeds={"type": int, "default": 2, "help": "archives that are drawn"},
        training={"action": "store_true", "help": "draw them from training photos"},
        way={"choices": WAYS, "help": "one way of answering only"},
    )
    ways = WAYS if arguments.way is None else {arguments.way: WAYS[arguments.way]}
    seeds, marks = (1, [50, 100]) if arguments.quick else (arguments.seeds, _MARKS)
    checks: Rows = []
    try:
        data = answerable(frame.photos(arguments))
        for archives in range(1, seeds + 1):
            seed = archives if arguments.training else _FIRST_SEED + archives
            for start in STARTS:
                world = draw_world(data, arguments, seed, start, of_test=not arguments.training)
                for way, order in ways.items():
                    learner = OurLearner(world, coupled=True)
                    for mark, answers in teach(learner, world, order, marks, seed):
                        at = {"way": way, "start": start, "answers": mark}
                        checks += [at | one for one in check(learner, world, answers)]
                    print(f"seed {seed}, {start}, {way}", flush=True)
                results = summarise(checks)
                frame.keep(arguments, **results, archives=archives)
    except MlcrfError as error:
        raise SystemExit(str(error)) from error
    print("\n\n".join(tables(results).values()))


def check(learner: OurLearner, world: World, answers: Tensor) -> Rows:
    """Return for each tag that is taught whether it has an estimate, and whether that holds."""
    taught, rows = learner.taught, []
    assert taught is not None
    marginals = learner.marginals(answers)
    columns = taught.columns.tolist()
    for label in range(world.num_known, answers.shape[1]):
        given, tagged = answers[:, label], marginals[:, label] > 0.5
        quality = None
        if label in columns:
            log_odds = taught.given_others[:, columns.index(label)]
            quality = estimate_quality(log_odds, given, tagged)
        row: dict[str, Any] = {"label": world.names[label], "says": quality is not None}
        if quality is not None:
            has_tag = (given == UNKNOWN) & (world.truth[:, label] == 1)
            for name, estimate, photos in (
                ("right", quality.right, tagged),
                ("missed", quality.missed, ~tagged),
            ):
                truth = int((has_tag & photos).sum())
                row |= {
                    f"{name}_covers": estimate.low <= truth <= estimate.high,
                    f"{name}_width": estimate.high - estimate.low,
                    f"{name}_truth": truth,
                }
        rows.append(row)
    return rows


def summarise(checks: Rows) -> dict[str, Any]:
    """Return figures by way, start and answers, by way alone, and by label."""
    by_way = checks + [one | {"way": "all"} for one in checks]
    ways = _grouped(by_way, "way")
    for row in ways:
        found = [one for one in by_way if one["way"] == row["way"]]
        row.update(_interval(found, "right_covers") | _interval(found, "missed_covers"))
    return {
        "rows": _grouped(checks, "way", "start", "answers"),
        "ways": ways,
        "labels": sorted(_grouped(checks, "label"), key=lambda row: str(row["label"])),
    }


def _interval(checks: Rows, key: str) -> dict[str, float]:
    """Return the ends of a 95 % interval of a share, over resamples of labels."""
    labels = sorted({one["label"] for one in checks})
    by_label = [
        [one[key] for one in checks if one["says"] and one["label"] == label] for label in labels
    ]
    drawn = np.random.default_rng(0).integers(len(labels), size=(_RESAMPLES, len(labels)))
    sums, counts = np.array([[sum(found), len(found)] for found in by_label]).T
    shares = sums[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return {f"{key}_low": float(low), f"{key}_high": float(high)}


def _grouped(checks: Rows, *keys: str) -> Rows:
    groups: dict[tuple[Any, ...], Rows] = {}
    for one in checks:
        groups.setdefault(tuple(one[key] for key in keys), []).append(one)
    return [
        dict(zip(keys, values, strict=True)) | _figures(found) for values, found in groups.items()
    ]


def _figures(checks: Rows) -> dict[str, Any]:
    """Return the share of tags with an estimate; of these the covered share, and medians."""
    said = [one for one in checks if one["says"]]
    row: dict[str, Any] = {"says": len(said) / len(checks), "estimates": len(said)}
    if not said:
        return row
    for name in ("right", "missed"):
        covers, width, truth = (
            [float(one[f"{name}_{what}"]) for one in said] for what in ("covers", "width", "truth")
        )
        row |= {
            f"{name}_covers": float(np.mean(covers)),
            f"{name}_width": float(np.median(width)),
            f"{name}_truth": float(np.median(truth)),
        }
    return row


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`ways`: by way of answering; `times`: by start and answers, too; `labels`: by label."""
    made = {}
    for name, rows, keys in (
        ("ways", results["ways"], ("way",)),
        ("times", results["rows"], ("way", "start", "answers")),
        ("labels", results["labels"], ("label",)),
    ):
        lines = []
        for row in rows:
            cells = [f"{row[key]:,}" if key == "answers" else row[key] for key in keys]
            cells += [f"{row['says']:.0%}", str(row["estimates"])]
            for what in ("right", "missed") if row["estimates"] else ():
                covers = f"{row[f'{what}_covers']:.0%}"
                if f"{what}_covers_low" in row:
                    low, high = (row[f"{what}_covers_{end}"] for end in ("low", "high"))
                    covers += f" [{low:.0%}, {high:.0%}]"
                cells += [covers, f"{row[f'{what}_truth']:.0f}, {row[f'{what}_width']:.0f}"]
            lines.append(cells + [""] * (len(keys) + 6 - len(cells)))
        head = [*keys, "says", "estimates", "right: covers", "median truth, width"]
        made[name] = frame.table(lines, [*head, "missed: covers", "median truth, width"])
    return made


if __name__ == "__main__":
    main()
