"""The CRF beside scikit-learn's multi-label methods, on data sets of numbers.

    python -m experiments.multilabel.run --data FOLDER --out FILE

The folder has data sets as Mulan publishes them: NAME-train.arff, NAME-test.arff, NAME.xml. Each
method is tuned on the training rows, by five-fold cross-validation of -log P(Y | x), and scored on
the test rows, which nothing else reads. Wrong labels and F1 are those of marginals at 0.5; sets are
the most probable ones of the CRF, and what `predict` returns of others. Sets of more than 64 labels
are measured with `--full`, or by name with `--sets`. Without `--data` a drawn set is measured. Rows
of other data sets in the file of figures stay.

    python -m experiments.multilabel.run --data FOLDER --sets birds flags --resplit 10

splits all rows of a set at random, as often as said, in parts of the official sizes: whether a
difference on the official test rows is one of the methods, or of these rows. Methods of
scikit-learn are tuned by one of the five folds; `--ours` leaves them out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import frame
from experiments.frame import Rows, percent
from experiments.many_labels.drawn import make_sparse_crf
from experiments.multilabel.peers import Answer, Method, peers
from experiments.numbers import Numbers, read_numbers
from mlcrf import MultiLabelCRFClassifier
from mlcrf.labels import LabelSpace

CRF, CHOSEN = ("CRF, linear", "CRF, rbf", "CRF, forest"), "CRF, chosen"
_OTHERS = (
    "independent logistic regression",
    "classifier chain",
    "ensemble of chains",
    "random forest",
    "nearest neighbours",
)
RANKED = (*CRF, CHOSEN, *_OTHERS)
MEASURES = {"wrong": False, "sets_right": True, "example_f1": True, "nll": False}  # larger better?
_TITLES = {
    "wrong": "wrong labels, %",
    "sets_right": "sets right, %",
    "example_f1": "F1 of an example, %",
    "nll": "nll",
}
_LONG = 64  # labels; above, only with --full
_QUICK_ROWS = 150
_QUICK = {"penalties": (0.3,), "pairwise_penalties": (0.01,)}

Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Measured:
    """Measures of a method on each test row, and the time of tuning, fitting and answering.

    Attributes:
        held_out_loss: -log P(Y | x) on held-out training rows, of CRFs.
        setting: the candidate that was chosen, of others.
    """

    scores: Scores
    seconds: float
    held_out_loss: float = math.nan
    setting: dict[str, Any] | None = None


def main() -> None:
    """Tune and score every method on every data set, keep the rows, and print them."""
    arguments = frame.read_options(
        __doc__,
        "multilabel",
        data={"type": Path, "help": "folder of data sets; none for a drawn one"},
        sets={"nargs": "+", "metavar": "NAME", "help": "only these"},
        ours={"action": "store_true", "help": "only the CRF; rows of other methods stay"},
        resplit={"type": int, "metavar": "N", "help": "random splits, in place of the official"},
        full={"action": "store_true", "help": "also sets of more than 64 labels"},
        seed={"type": int, "default": 0},
    )
    torch.set_num_threads(1)
    kept = frame.earlier(arguments)
    rows: Rows = kept.get("rows", [])
    splits: Rows = kept.get("splits", [])
    if arguments.resplit:
        for name, numbers in _data_sets(arguments):
            stay = _OTHERS if arguments.ours else ()
            splits = [row for row in splits if row["set"] != name or row["method"] in stay]
            splits += resplit(name, numbers, arguments)
            frame.keep(arguments, rows, splits=splits)
        print(tables({"rows": rows, "splits": splits})["splits"])
        return
    for name, numbers in _data_sets(arguments):
        print(f"## {name}", flush=True)
        kept = [row for row in rows if row["set"] == name and row["method"] in _OTHERS]
        rows = [row for row in rows if row["set"] != name]
        many = len(numbers.labels) > _LONG
        others = {} if arguments.ours else peers(arguments.seed, quick=arguments.quick, many=many)
        rows += measure(
            name, numbers, others, arguments.seed, arguments.resamples, quick=arguments.quick
        )
        rows += kept if arguments.ours else []
        frame.keep(arguments, rows, splits=splits)
    print("\n\n".join(tables({"rows": rows, "splits": splits}).values()))


def _data_sets(arguments: Any) -> Iterator[tuple[str, Numbers]]:
    if arguments.data is None:
        crf = make_sparse_crf(12, 8, labels_per_image=1.2)
        labels = LabelSpace(tuple(f"label {number}" for number in range(12)))
        count = _QUICK_ROWS if arguments.quick else 500
        yield "drawn", Numbers(labels, crf.draw(count, seed=1), crf.draw(500, seed=2))
        return
    found = sorted(path.stem for path in arguments.data.glob("*.xml"))
    names = arguments.sets or found
    if missing := [name for name in names if name not in found] or ([] if found else ["*"]):
        raise SystemExit(f"{arguments.data}: no {missing[0]}.xml with NAME-train.arff beside it")
    for name in names:
        numbers = read_numbers(arguments.data, name)
        if len(numbers.labels) <= _LONG or arguments.full or arguments.sets:
            yield name, _first(numbers) if arguments.quick else numbers


def _first(numbers: Numbers) -> Numbers:
    rows, labels = slice(0, _QUICK_ROWS), numbers.labels.names[:_LONG]
    train, test = (
        (features[rows], targets[rows, : len(labels)])
        for features, targets in (numbers.train, numbers.test)
    )
    return Numbers(LabelSpace(labels), train, test)


def measure(
    name: str,
    numbers: Numbers,
    others: Mapping[str, Method],
    seed: int,
    resamples: int,
    *,
    quick: bool,
) -> Rows:
    """Return a row for each method, with the intervals of the CRFs against their baselines."""
    measured: dict[str, Measured] = {}
    for method in CRF:
        measured |= measure_crf(method, numbers, seed, quick=quick)
        print(f"{method}: {measured[method].seconds:.0f} s", flush=True)
    for method, peer in others.items():
        measured[method] = measure_peer(peer, numbers, seed)
        print(f"{method}: {measured[method].seconds:.0f} s", flush=True)
    return make_rows(name, numbers, measured, resamples, seed)


def measure_crf(method: str, numbers: Numbers, seed: int, *, quick: bool) -> dict[str, Measured]:
    """Return a CRF, and under `baseline of` its name its baseline."""
    began = perf_counter()
    crf = MultiLabelCRFClassifier(
        features=method.split(", ")[1], random_state=seed, **(_QUICK if quick else {})
    ).fit(*numbers.train)
    scores = score(_answer(crf, *numbers.test), numbers.test[1])
    seconds = perf_counter() - began
    theirs = score(_answer(crf.independent_, *numbers.test), numbers.test[1])
    return {
        method: Measured(scores, seconds, crf.held_out_loss_),
        f"baseline of {method}": Measured(theirs, seconds),
    }


def measure_peer(peer: Method, numbers: Numbers, seed: int) -> Measured:
    """Tune a method of scikit-learn, and score it."""
    began = perf_counter()
    (features, targets), (tests, truths) = numbers.train, numbers.test
    setting = peer.tune(features.astype(np.float64), targets, seed=seed)
    scores = score(peer.answer(tests.astype(np.float64), truths), truths)
    return Measured(scores, perf_counter() - began, setting=setting)


def make_rows(
    name: str, numbers: Numbers, measured: dict[str, Measured], resamples: int, seed: int
) -> Rows:
    """Return the rows of a data set, one of them for the CRF of smaller held-out loss."""
    (features, targets), (_, truths) = numbers.train, numbers.test
    best = min(CRF, key=lambda one: measured[one].held_out_loss)
    both = sum(measured[one].seconds for one in CRF)
    measured = measured | {CHOSEN: replace(measured[best], seconds=both)}
    measured[f"baseline of {CHOSEN}"] = measured[f"baseline of {best}"]
    rows: Rows = []
    for method, found in measured.items():
        row: dict[str, Any] = {
            "set": name,
            "labels": targets.shape[1],
            "features": features.shape[1],
            "train": len(targets),
            "test": len(truths),
            "method": method,
            "commit": frame.commit(),
        }
        row |= {measure: float(values.mean()) for measure, values in found.scores.items()}
        row |= {"seconds": round(found.seconds, 1), "setting": found.setting}
        if method in CRF:
            row["held_out_loss"] = found.held_out_loss
        if method == CHOSEN:
            row["chosen"] = best
        if f"baseline of {method}" in measured:
            theirs = measured[f"baseline of {method}"].scores
            row["difference"] = differences(found.scores, theirs, resamples, seed)
        rows.append(row)
    return rows


def _answer(
    crf: MultiLabelCRFClassifier, features: NDArray[np.float32], truths: NDArray[np.int8]
) -> Answer:
    return Answer(
        crf.predict_proba(features),
        crf.predict(features, decision="map").astype(np.int8),
        -np.log(crf.predict_joint_proba(features, truths)),
    )


def score(answer: Answer, truths: NDArray[np.int8]) -> Scores:
    """Return the measures of each row (N,)."""
    chosen = answer.marginals >= 0.5
    hits, sizes = (chosen & (truths == 1)).sum(1), chosen.sum(1) + truths.sum(1)
    return {
        "wrong": (chosen != truths).mean(1),
        "sets_right": (answer.sets == truths).all(1).astype(np.float64),
        "example_f1": np.where(sizes > 0, 2 * hits / np.maximum(sizes, 1), 1.0),
        "nll": answer.nll,
    }


def differences(
    ours: Scores, theirs: Scores, resamples: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Return the mean difference of each measure with its 95 % interval, by paired bootstrap."""
    rng = np.random.default_rng(seed)
    count = len(ours["nll"])
    drawn = rng.integers(0, count, (resamples, count))
    result = {}
    for measure in MEASURES:
        rows = ours[measure] - theirs[measure]
        low, high = np.quantile(rows[drawn].mean(1), [0.025, 0.975])
        result[measure] = (float(rows.mean()), float(low), float(high))
    return result


def resplit(name: str, numbers: Numbers, arguments: Any) -> Rows:
    """Return a row for each method: its measures on each random split, and those of baselines."""
    (features, targets), (more, others) = numbers.train, numbers.test
    together, known = np.concatenate([features, more]), np.concatenate([targets, others])
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.resplit):
        order = np.random.default_rng((arguments.seed, number)).permutation(len(together))
        parts = order[: len(targets)], order[len(targets) :]
        train, test = ((together[part], known[part]) for part in parts)
        split = Numbers(numbers.labels, train, test)
        measured: dict[str, Measured] = {}
        for method in CRF:
            measured |= measure_crf(method, split, arguments.seed, quick=arguments.quick)
        others = {} if arguments.ours else peers(arguments.seed, quick=arguments.quick)
        for method, peer in others.items():
            peer.folds = 1
            measured[method] = measure_peer(peer, split, arguments.seed)
        for method, one in measured.items():
            means = {measure: float(values.mean()) for measure, values in one.scores.items()}
            found.setdefault(method, []).append(means)
        print(f"{name}: split {number + 1} of {arguments.resplit}", flush=True)
    return [
        {"set": name, "method": method, **{one: [row[one] for row in means] for one in MEASURES}}
        for method, means in found.items()
    ]


def _split_table(splits: Rows) -> str:
    lines = []
    for row in splits:
        baseline = f"baseline of {row['method']}"
        theirs = [one for one in splits if (one["set"], one["method"]) == (row["set"], baseline)]
        if row["method"].startswith("baseline of "):
            continue
        cells = [_shown(one, float(np.mean(row[one]))) for one in MEASURES]
        gains = [np.subtract(row["nll"], one["nll"]) for one in theirs]
        means = [
            f"{gain.mean():+.3f} ± {gain.std(ddof=1) / math.sqrt(len(gain)):.3f}"
            for gain in gains
            if len(gain) > 1
        ]
        lines.append([row["set"], row["method"], *cells, *(means or [""])])
    head = ["set", "method", *_TITLES.values(), "nll: CRF - baseline"]
    return frame.table(lines, head)


def tables(results: dict[str, Rows]) -> dict[str, str]:
    """`measures`: every method; `ranks`: means over sets of at most 24 labels; `differences`.

    `splits`: means over random splits.
    """
    rows = results["rows"]
    head = ["set", "labels", "rows", "method", *_TITLES.values(), "seconds"]
    lines = [
        [
            row["set"],
            str(row["labels"]),
            f"{row['train']:,} + {row['test']:,}",
            row["method"] + (f" ({row['chosen'].split(', ')[1]})" if "chosen" in row else ""),
            *(_shown(measure, row[measure]) for measure in MEASURES),
            f"{row['seconds']:.0f}",
        ]
        for row in rows
        if row["method"] in RANKED
    ]
    against = ["set", "method", *(f"{title}: CRF - baseline" for title in _TITLES.values())]
    return {
        "measures": frame.table(lines, head),
        "ranks": frame.table(_ranks(rows), ["method", *_TITLES.values(), "mean"]),
        "differences": frame.table(_differences(rows), against),
        "splits": _split_table(results.get("splits", [])),
    }


def _shown(measure: str, value: float) -> str:
    return f"{value:.3f}" if measure == "nll" else percent(value)


def _ranks(rows: Rows) -> list[list[str]]:
    """Return the mean rank of each method; equal values share the mean of their ranks.

    The chosen CRF is ranked in place of the two that it is chosen from, and those in its place.
    """
    measured = {(row["set"], row["method"]) for row in rows if row["labels"] <= 24}
    small = sorted({name for name, _ in measured if all((name, one) in measured for one in RANKED)})
    lines: list[list[str]] = []
    for method in RANKED if small else ():
        others = [one for one in _OTHERS if one != method]
        means = []
        for measure, larger in MEASURES.items():
            ranks = []
            for name in small:
                values = {row["method"]: row[measure] for row in rows if row["set"] == name}
                among = [
                    values[one] for one in (others if method in (*CRF, CHOSEN) else _rivals(method))
                ]
                better = sum(
                    (one > values[method]) == larger and one != values[method] for one in among
                )
                equal = sum(one == values[method] for one in among)
                ranks.append(1 + better + equal / 2)
            means.append(float(np.mean(ranks)))
        lines.append([method, *(f"{one:.2f}" for one in means), f"{np.mean(means):.2f}"])
    return lines


def _rivals(method: str) -> tuple[str, ...]:
    return (CHOSEN, *(one for one in _OTHERS if one != method))


def _differences(rows: Rows) -> Iterator[list[str]]:
    for row in rows:
        if row["method"] in CRF:
            cells = (
                frame.gain(row["difference"][measure], 1 if measure == "nll" else 100)
                for measure in MEASURES
            )
            yield [row["set"], row["method"], *cells]


if __name__ == "__main__":
    main()
