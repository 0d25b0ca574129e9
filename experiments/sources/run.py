"""Measure what is learned from tables that leave out labels.

    python -m experiments.sources.run [--data TABLE] [--quick]

`halves`: half of the training and validation images in each of two tables, with every second label.
Trained apart, as one, and with all labels of all images.

`positives`: half of the present labels of training and validation images are lost by chance, as in
tags that people give; what is lost is taken as absent, or the table is learned from as one that
lists only a part of what is present, or nothing is lost.

Both models of a run are scored on the test images: `nll` of all labels together, in nats per image
(apart: the sum of both runs), and mAP over all labels. Of the gap between the worst and the fully
labelled, the share that is closed, with its 95 % interval over images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import frame
from mlcrf.checkpoint import Run
from mlcrf.choices import Schedule
from mlcrf.config import TrainSettings
from mlcrf.data.joining import join_tables, with_mentions
from mlcrf.data.manifest import Manifest, Split
from mlcrf.labels import LabelSpace
from mlcrf.metrics import Ranking

PENALTIES: dict[str, Any] = {"penalties": (0.1, 0.3, 1.0), "pairwise_penalties": (0.01,)}
LOST = 0.5  # share of the present labels
_STACKED = {"schedule": Schedule.STACKED}
_AT_ONCE = 1024
_MAP_RESAMPLES = 200


@dataclass(frozen=True)
class Answers:
    """A model's answers on the test images.

    Attributes:
        nll: negative log-likelihood of each image's labels (N,).
        marginals: probability of each label (N, L).
    """

    nll: NDArray[np.float64]
    marginals: NDArray[np.float64]


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "sources",
        seed={"type": int, "default": 0, "help": "of halves and of what is lost"},
    )
    data = frame.photos(arguments)
    more = frame.QUICK if arguments.quick else PENALTIES
    settings = TrainSettings(**more)
    test = data.part(Split.TEST)

    def learn(name: str, manifest: Manifest, **more: Any) -> Run:
        place = arguments.runs / "sources" / f"{len(data.labels)}-{name}-{arguments.seed}"
        return frame.trained(manifest, place, settings.model_copy(update=more))

    rows: frame.Rows = []
    for question in (_halves, _positives):
        rows += question(data, test, learn, arguments)
        frame.keep(arguments, rows)
    print("\n\n".join(tables({"rows": rows}).values()))


def _positives(
    data: Manifest, test: Manifest, learn: Callable[..., Run], arguments: Any
) -> frame.Rows:
    """Score runs of a table that leaves out present labels, and of the complete one."""
    tested = np.array(data.splits) == Split.TEST
    chance = np.random.default_rng(arguments.seed).random(data.targets.shape)
    lost = (data.targets == 1) & (chance < LOST) & ~tested[:, None]
    left = replace(data, targets=np.where(lost, np.int8(0), data.targets))
    runs = {
        "taken as absent": learn("absent", left, **_STACKED),
        "--lists positives": learn("positives", with_mentions(left, "tags"), **_STACKED),
        "complete": learn("complete", data, **_STACKED),
    }
    found = {name: _of_run(run, test) for name, run in runs.items()}
    rows = _rows("positives", found, test, "taken as absent", "complete", arguments)
    estimated = list(runs["--lists positives"].mentions["tags"].values())
    for row in rows:
        if row["case"] == "--lists positives":
            row["listed"] = [float(np.mean(estimated)), min(estimated), max(estimated)]
    return rows


def _halves(
    data: Manifest, test: Manifest, learn: Callable[..., Run], arguments: Any
) -> frame.Rows:
    """Score runs of two tables with different labels: apart, as one, and fully labelled."""
    names = data.labels.names
    halves = [LabelSpace(names[0::2]), LabelSpace(names[1::2])]
    draw = np.random.default_rng(arguments.seed).random(len(data))
    found: dict[str, dict[str, Answers]] = {}
    apart = [
        _of_run(learn(f"half-{number}", one), test)
        for number, one in enumerate(_tables(data, halves, draw))
    ]
    order = LabelSpace((*halves[0], *halves[1])).columns_in(names)
    place = np.argsort(order)
    for model in ("independent", "crf"):
        both = [answers[model] for answers in apart]
        marginals = np.concatenate([one.marginals for one in both], axis=1)[:, place]
        found.setdefault("apart", {})[model] = Answers(both[0].nll + both[1].nll, marginals)
    first, second = _tables(data, halves, draw)
    union = join_tables({"first": first, "second": second}).relabelled(data.labels)
    found["as one"] = _of_run(learn("union-0", union), test)
    found["all labels"] = _of_run(learn("full", data), test)
    return _rows("halves", found, test, "apart", "all labels", arguments)


def _tables(data: Manifest, halves: list[LabelSpace], draw: NDArray[np.float64]) -> list[Manifest]:
    """Return a table for each half of the labels, with half of the images."""
    tested = np.array(data.splits) == Split.TEST
    parts = []
    for labels, inside in zip(halves, (draw < 0.5, draw >= 0.5), strict=True):
        columns = [data.labels.index(name) for name in labels]
        rows = np.flatnonzero(inside & ~tested)
        part = data.rows(rows)
        parts.append(replace(part, targets=part.targets[:, columns], labels=labels))
    return parts


@torch.no_grad()
def _of_run(run: Run, test: Manifest) -> dict[str, Answers]:
    """Return the answers of both models of a run, for its own labels."""
    columns = [test.labels.index(name) for name in run.labels]
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets[:, columns].astype(np.int64))
    result = {}
    for name, model in (("independent", run.independent), ("crf", run.crf)):
        method = model.make_inference(run.settings.inference, run.settings)
        nll, marginals = [], []
        for part, known in zip(features.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True):
            potentials = model(part)
            posterior = method(potentials)
            nll.append(posterior.log_partition - potentials.log_score(known))
            marginals.append(posterior.marginals)
        result[name] = Answers(
            torch.cat(nll).double().numpy(), torch.cat(marginals).double().numpy()
        )
    return result


def _precision(
    answers: Answers, test: Manifest, resamples: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the mean average precision with each set of weights of the images."""
    rankings = [
        Ranking(scores, targets)
        for scores, targets in zip(answers.marginals.T, test.targets.T, strict=True)
    ]
    return np.array(
        [np.nanmean([one.average_precision(weights) for one in rankings]) for weights in resamples]
    )


def _rows(
    question: str,
    found: dict[str, dict[str, Answers]],
    test: Manifest,
    worst: str,
    best: str,
    arguments: Any,
) -> frame.Rows:
    """Return a row for each case and model, with the share of the gap that it closes."""
    rng, count = np.random.default_rng(0), len(test)
    draws = [np.ones(count)]  # the first is of the images themselves
    for _ in range(arguments.resamples):
        draws.append(np.bincount(rng.integers(count, size=count), minlength=count).astype(float))
    rows = []
    for model in ("independent", "crf"):
        nll = {
            name: np.array([one[model].nll @ some / count for some in draws])
            for name, one in found.items()
        }
        precision = {
            name: _precision(one[model], test, draws[:_MAP_RESAMPLES])
            for name, one in found.items()
        }
        for name in found:
            row = {
                "question": question,
                "case": name,
                "model": model,
                "nll": float(nll[name][0]),
                "mean_average_precision": float(precision[name][0]),
            }
            if name not in (worst, best):
                row["nll_closed"] = _closed(nll, name, worst, best)
                row["map_closed"] = _closed(precision, name, worst, best)
            rows.append(row)
    return rows


def _closed(drawn: dict[str, NDArray[np.float64]], name: str, worst: str, best: str) -> list[float]:
    """Return the share of the gap between worst and best that a case closes, with its interval."""
    share = (drawn[worst] - drawn[name]) / (drawn[worst] - drawn[best])
    low, high = np.percentile(share[1:], [2.5, 97.5])
    return [float(share[0]), float(low), float(high)]


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return a table for each question."""
    head = ["learned from", "model", "nll", "gap closed, %", "mAP, %", "gap closed, %"]
    lines: dict[str, list[list[str]]] = {}
    for row in results["rows"]:
        cells = [row["case"], row["model"], f"{row['nll']:.3f}", _interval(row.get("nll_closed"))]
        cells += [frame.percent(row["mean_average_precision"]), _interval(row.get("map_closed"))]
        lines.setdefault(row["question"], []).append(cells)
    return {question: frame.table(own, head) for question, own in lines.items()}


def _interval(closed: list[float] | None) -> str:
    if closed is None:
        return ""
    share, low, high = (100 * value for value in closed)
    return f"{share:.0f} [{low:.0f}, {high:.0f}]"


if __name__ == "__main__":
    main()
