"""Count the clicks until all tags of a photo are right, when each click updates the others.

    python -m experiments.clicks.run [--quick]

Simulated answers from the truth. A photo shows the tags whose probability is above 0.5; a click
puts one wrong tag right (takes it away, or adds it), it is known from then on, and the others are
inferred anew; until nothing is wrong. Who clicks on which mistake first:

    any:        one at random
    glaring:    the one that the model is surest of

and, with `passed`, who goes through the tags in that order has seen those before it to be right, so
they are known from then on too. Independent labels need a click for every wrong tag. With 24 labels
and with all 38, where a label as its maker meant it (`sky_r1`) tells much of the wider one (`sky`).

The other way round, in `asking.py`, the program asks, and which photo comes first matters.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.clicks.asking import (
    PHOTO_ORDERS,
    with_couplings,
    without_couplings,
    wrong_after,
)
from experiments.known_tags.run import WEIGHTS, evidence, naive_bayes
from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Manifest, Split

ORDERS = ("any", "glaring")
MODELS = {"independent": "independent", "naive_bayes": "naive Bayes", "crf": "CRF"}
LABEL_SETS = (24, 38)
ANSWERS = (0, 0.25, 0.5, 1, 2, 4)  # for each photo on average
_RESAMPLES = 1000

# rows of images and what is known of each (n, L), to marginals (n, L)
Belief = Callable[[Tensor, Tensor], Tensor]


def clicks_needed(
    belief: Belief, truth: Tensor, *, order: str, passed: bool, seed: int = 0
) -> NDArray[np.int64]:
    """Clicks until each photo's tags are right, (N,).

    Args:
        truth: int64 (N, L).
        order: which mistake is clicked first.
        passed: whether tags that come before it in that order become known too.
    """
    known = torch.full_like(truth, -1)
    clicks = np.zeros(len(truth), np.int64)
    chance = torch.from_numpy(np.random.default_rng(seed).random(truth.shape)).float()
    left = torch.arange(len(truth))
    while len(left):
        shown = belief(left, known[left])
        wrong = ((shown > 0.5).long() != truth[left]) & (known[left] < 0)
        open_ = wrong.any(1)
        left, shown, wrong = left[open_], shown[open_], wrong[open_]
        rank = chance[left] if order == "any" else (shown - 0.5).abs()
        first = rank.where(wrong, -1.0).max(1, keepdim=True)
        seen = rank >= first.values if passed else torch.zeros_like(wrong)
        seen = seen.scatter(1, first.indices, True)
        known[left] = truth[left].where(seen, known[left])
        clicks[left.numpy()] += 1
    return clicks


def main() -> None:
    """Choose the weights of naive Bayes on validation, click through test, keep the figures."""
    arguments = frame.read_options(__doc__, "clicks")
    rows: frame.Rows = []
    for label_set in (None,) if arguments.quick else LABEL_SETS:
        rows += _clicks(arguments, frame.photos(arguments, label_set))
        frame.keep(arguments, rows)
    data = frame.photos(arguments)
    run, test = frame.default_run(arguments, data), data.part(Split.TEST)
    truth = torch.from_numpy(test.targets).long()
    orders = _orders(run, frame.features_of(run, test), truth)
    frame.keep(arguments, rows, orders=orders)
    for table in tables({"rows": rows, "orders": orders}).values():
        print(f"{table}\n")


def _clicks(arguments: argparse.Namespace, data: Manifest) -> frame.Rows:
    """Clicks on test photos in every way, for all three models."""
    run = frame.default_run(arguments, data)
    parts = {split: data.part(split) for split in Split}
    ratios = evidence(parts[Split.TRAIN].targets)
    beliefs, truths = {}, {}
    for split in (Split.VALIDATION, Split.TEST):
        features = frame.features_of(run, parts[split])
        truths[split] = torch.from_numpy(parts[split].targets).long()
        beliefs[split] = _beliefs(run, features, ratios)
    rows: frame.Rows = []
    for passed in (False, True):
        for order in ORDERS:
            how = {"order": order, "passed": passed}
            weight = min(
                WEIGHTS,
                key=lambda w, how=how: clicks_needed(
                    beliefs[Split.VALIDATION]["naive_bayes"](w), truths[Split.VALIDATION], **how
                ).mean(),
            )
            counts = {
                name: clicks_needed(make(weight), truths[Split.TEST], **how)
                for name, make in beliefs[Split.TEST].items()
            }
            about = {"labels": len(data.labels)} | how | {"weight": weight}
            rows.append(about | _summary(counts))
    return rows


@torch.no_grad()
def _orders(run: Run, features: Tensor, truth: Tensor) -> list[dict[str, Any]]:
    """Wrong labels per photo by answers, for both models and both orders of photos."""
    budgets = sorted({round(share * len(truth) / 250) * 250 for share in ANSWERS})
    asking = {
        "independent": without_couplings(run.independent(features).unary),
        "crf": with_couplings(run.crf(features), run.make_inference()),
    }
    return [
        {"model": name, "order": order, "answers": budget, "photos": len(truth), "wrong": wrong}
        for name, ask in asking.items()
        for order in PHOTO_ORDERS
        for budget, wrong in zip(
            budgets, wrong_after(ask, truth, budgets, order=order), strict=True
        )
    ]


@torch.no_grad()
def _beliefs(run: Run, features: Tensor, ratios: Tensor) -> dict[str, Callable[[float], Belief]]:
    """By model: a weight, which only naive Bayes heeds, to beliefs."""
    unary, potentials = run.independent(features).unary, run.crf(features)
    inference = run.make_inference()

    def fixed(p: Tensor, known: Tensor) -> Tensor:
        return p.where(known < 0, known.to(p.dtype))

    return {
        "independent": lambda _: lambda rows, known: fixed(unary[rows].sigmoid(), known),
        "naive_bayes": lambda weight: (
            lambda rows, known: fixed(naive_bayes(unary[rows], known, ratios, weight), known)
        ),
        "crf": lambda _: (
            lambda rows, known: inference(potentials.rows(rows), known=known).marginals
        ),
    }


def _summary(counts: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Mean clicks, and how many per cent fewer than independent labels, with 95 % intervals."""
    rng = np.random.default_rng(0)
    plain = counts["independent"]
    drawn = [rng.integers(len(plain), size=len(plain)) for _ in range(_RESAMPLES)]
    fewer = {}
    for name in ("naive_bayes", "crf"):
        shares = [1 - counts[name][rows].mean() / plain[rows].mean() for rows in drawn]
        low, high = np.quantile(shares, [0.025, 0.975]).tolist()
        fewer[name] = [float(1 - counts[name].mean() / plain.mean()), low, high]
    return {"clicks": {name: float(one.mean()) for name, one in counts.items()}, "fewer": fewer}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`clicks`: by how one clicks, those of each model and what is saved; `orders`: of photos."""
    lines = []
    for row in results["rows"]:
        how = f"{row['order']} mistake first"
        cells = [str(row["labels"])]
        cells += [f"{how}, those passed are right" if row["passed"] else how]
        cells += [f"{row['clicks'][name]:.3f}" for name in MODELS]
        cells += [frame.gain(row["fewer"][name]) for name in ("naive_bayes", "crf")]
        lines.append(cells)
    heads = ["naive Bayes: fewer, %", "CRF: fewer, %"]
    made = {"clicks": frame.table(lines, ["labels", "who clicks", *MODELS.values(), *heads])}
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for row in results["orders"]:
        curves.setdefault((row["model"], row["order"]), {})[row["answers"]] = row["wrong"]
    plain = curves["independent", "name"]
    last = max(plain)
    lines = [
        [MODELS[name], order, *(f"{wrong:.3f}" for wrong in curve.values()), _saved(curve, plain)]
        for (name, order), curve in curves.items()
    ]
    head = ["who asks", "which photo next", *(f"{answers:,} answers" for answers in plain)]
    head.append(f"fewer answers for what independent, by name, needs {last:,} for")
    return made | {"orders": frame.table(lines, head)}


def _saved(curve: dict[int, float], plain: dict[int, float]) -> str:
    """By how much fewer answers a curve comes to where the plain one ends, read off linearly."""
    last = max(plain)
    needed = float(np.interp(-plain[last], [-wrong for wrong in curve.values()], list(curve)))
    return f"{1 - needed / last:.0%}"


if __name__ == "__main__":
    main()
