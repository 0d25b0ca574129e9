"""Measure the gain from known tags: reveal some labels of test images, score the others.

    python -m experiments.known_tags.run [--quick]

Random labels, present or absent, at several shares; and a user's habit: only labels that are
present. Beside the CRF: independent scores, which cannot use what is known, and a baseline that
knows as much, independent scores times the co-occurrence with what is known by naive Bayes,

    log-odds_i = unary_i + w sum_{known j} log P(y_j | y_i = 1) / P(y_j | y_i = 0),

counted on training images, add-one smoothed, with w chosen on validation images for each protocol
(w = 1 counts one piece of evidence many times over).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.frame import percent
from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Manifest, Split
from mlcrf.metrics import Predictions, Statistics, bootstrap_differences, gather_statistics

SHARES = (0.0, 0.25, 0.5, 0.75)
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PRESENT = "half of the present ones"
MODELS = {"independent": "independent", "naive_bayes": "naive Bayes", "crf": "CRF"}


def revealed(targets: NDArray[np.int8], protocol: str, seed: int) -> Tensor:
    """Return the known labels, -1 for unknown, int64 (N, L)."""
    chance = np.random.default_rng(seed).random(targets.shape)
    if protocol == PRESENT:
        shown = (targets == 1) & (chance < 0.5)
    else:
        shown = chance < float(protocol)
    return torch.from_numpy(np.where(shown, targets, -1).astype(np.int64))


def evidence(targets: NDArray[np.int8]) -> Tensor:
    """log P(y_j = b | y_i = 1) / P(y_j = b | y_i = 0), (2, L, L): value b, label j, label i."""
    y = torch.from_numpy(targets.astype(np.float32))
    ratios = []
    for value in (1 - y, y):
        given = [(value.T @ which + 1) / (which.sum(0) + 2) for which in (y, 1 - y)]
        ratios.append((given[0] / given[1]).log())
    return torch.stack(ratios)


def naive_bayes(unary: Tensor, known: Tensor, ratios: Tensor, weight: float) -> Tensor:
    """Marginals of the baseline, (N, L)."""
    gathered = sum((known == value).float() @ ratios[value] for value in (0, 1))
    return (unary + weight * gathered).sigmoid()


def main() -> None:
    """Reveal, infer, score, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "known_tags",
        seed={"type": int, "default": 0, "help": "of what is revealed"},
    )
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    train, validation, test = (data.part(split) for split in Split)
    features = {
        split: frame.features_of(run, part)
        for split, part in ((Split.VALIDATION, validation), (Split.TEST, test))
    }
    rows = _score(arguments, run, (train, validation, test), features)
    print(tables({"rows": rows})["protocols"])


@torch.no_grad()
def _score(
    arguments: Any,
    run: Run,
    parts: tuple[Manifest, Manifest, Manifest],
    features: dict[Split, Tensor],
) -> frame.Rows:
    """Every protocol, every model; the figures so far are kept after each."""
    train, validation, test = parts
    ratios = evidence(train.targets)
    rows: frame.Rows = []
    for protocol in (*map(str, SHARES), PRESENT):
        weight = _choose(run, validation, features[Split.VALIDATION], protocol, ratios, arguments)
        known = revealed(test.targets, protocol, arguments.seed)
        unary = run.independent(features[Split.TEST]).unary
        potentials = run.crf(features[Split.TEST])
        beliefs = {
            "independent": unary.sigmoid(),
            "naive_bayes": naive_bayes(unary, known, ratios, weight),
            "crf": run.make_inference()(potentials, known=known).marginals,
        }
        scores = {name: score(p, test.targets, known) for name, p in beliefs.items()}
        rows.append(
            {
                "protocol": protocol,
                "weight": weight,
                "models": {
                    name: {
                        "hamming": one.measures().hamming,
                        "mean_average_precision": one.measures().mean_average_precision,
                    }
                    for name, one in scores.items()
                },
                "difference": {
                    name: bootstrap_differences(
                        scores["crf"], scores[name], resamples=arguments.resamples, seed=0
                    )
                    for name in ("independent", "naive_bayes")
                },
            }
        )
        frame.keep(arguments, rows)
    return rows


def _choose(
    run: Run,
    validation: Manifest,
    features: Tensor,
    protocol: str,
    ratios: Tensor,
    arguments: Any,
) -> float:
    """The weight of naive Bayes with the fewest wrong labels on validation images."""
    known = revealed(validation.targets, protocol, arguments.seed + 1)
    unary = run.independent(features).unary
    wrong = {
        weight: score(naive_bayes(unary, known, ratios, weight), validation.targets, known)
        .measures()
        .hamming
        for weight in WEIGHTS
    }
    return min(wrong, key=lambda weight: wrong[weight])


def score(marginals: Tensor, targets: NDArray[np.int8], known: Tensor) -> Statistics:
    """Counts over the labels that were not revealed."""
    states = (marginals > 0.5).long().numpy()
    rest = np.where(known.numpy() >= 0, np.int8(-1), targets)
    nothing = np.zeros(len(targets))
    return gather_statistics(Predictions(marginals.double().numpy(), states, nothing), rest)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`protocols`: what is known, and how well each model tells the rest; `short`: two of them."""
    lines = []
    for row in results["rows"]:
        known = row["protocol"]
        cells = [known if known == PRESENT else f"{float(known):.0%}", f"{row['weight']:g}"]
        for name in ("hamming", "mean_average_precision"):
            cells += [percent(row["models"][model][name]) for model in MODELS]
            cells.append(frame.gain(row["difference"]["naive_bayes"][name]))
        lines.append(cells)
    heads = [
        f"{what}: {model}"
        for what in ("wrong, %", "mAP, %")
        for model in (*MODELS.values(), "CRF - naive Bayes")
    ]
    short = []
    for row in results["rows"]:
        if row["protocol"] != PRESENT:
            cells = [f"{float(row['protocol']):.0%}"]
            for name in ("hamming", "mean_average_precision"):
                cells += [percent(row["models"][model][name]) for model in ("independent", "crf")]
            short.append(cells)
    words = ["wrong, %: independent", "CRF", "mAP, %: independent", "CRF"]
    return {
        "protocols": frame.table(lines, ["known", "w", *heads]),
        "short": frame.table(short, ["labels known", *words]),
    }


if __name__ == "__main__":
    main()
