"""Does `mlcrf audit` find planted errors, and do the other annotations help?

    python -m experiments.audit.run [--data TABLE] [--out FILE] [--images N] [--seed N] [--quick]

Of a share of the annotations the value is flipped: at random, or along confusable pairs, where of
images that have a label and not the label that goes most with it (largest correlation of the two)
some are given the other one instead. `mlcrf.training.auditing.audit` then judges all annotations,
without being told. The score by the image alone is cleanlab's self-confidence, 1 - P(given | image)
(Northcutt, Jiang and Chuang, "Confident learning", 2021), on the same left-out probabilities; the
score of an image is the moving average of its sorted scores that cleanlab takes of them
(Thyagarajan et al., "Identifying incorrect annotations in multi-label classification data", 2022).

Area under the curve of precision over recall of the flipped annotations, or of images with one. The
intervals are of bootstraps over images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from experiments import frame
from experiments.frame import Rows
from mlcrf.checkpoint import load_run
from mlcrf.labels import UNKNOWN
from mlcrf.shipped_models import DEFAULT
from mlcrf.training.auditing import audit

RATES = (0.02, 0.05, 0.10)
KINDS = ("random", "confusable")
_SHARE_OF_SCORE = 0.8  # of the lowest score so far, in cleanlab's average

Scores = NDArray[np.float64]


def main() -> None:
    """Plant errors, audit, keep the figures and print them."""
    arguments = frame.read_options(
        __doc__,
        "audit",
        images={"type": int, "default": 2000, "help": "drawn from the data's training images"},
        seed={"type": int, "default": 0},
    )
    run = load_run(Path(DEFAULT))
    data = frame.photos(arguments)
    rng = np.random.default_rng(arguments.seed)
    chosen = rng.permutation(len(data))[: 200 if arguments.quick else arguments.images]
    data = data.rows(np.sort(chosen))
    features = frame.features_of(run, data).numpy()
    rows: Rows = []
    for kind in KINDS:
        for rate in RATES[:1] if arguments.quick else RATES:
            flipped = planted(data.targets, kind, rate, rng)
            wrong = np.not_equal(flipped, data.targets)
            found = audit(replace(data, targets=flipped), features)
            columns = found.columns.numpy()
            others = found.scores.numpy()
            given = flipped[:, columns]
            image = np.abs(given - found.p_image.numpy())
            image[given == UNKNOWN] = np.nan
            about = {"kind": kind, "rate": rate, "flipped": int(wrong.sum())}
            rows += compared(about, wrong[:, columns], image, others, arguments.resamples)
            frame.keep(arguments, rows, images=len(data))
    print(tables({"rows": rows})["areas"])


def planted(
    targets: NDArray[np.int8], kind: str, rate: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Return targets (N, L) of which a share is wrong; unknown ones stay."""
    result = targets.copy()
    known = targets != UNKNOWN
    if kind == "random":
        chosen = known & (rng.random(targets.shape) < rate)
        result[chosen] = 1 - targets[chosen]
        return result
    present = (targets == 1).astype(np.float64)
    correlation = np.corrcoef(present.T + 1e-9 * rng.random(present.T.shape))
    np.fill_diagonal(correlation, -1)
    pairs = [
        (row, label, int(other))
        for label, other in enumerate(correlation.argmax(1))
        for row in np.flatnonzero((targets[:, label] == 1) & (targets[:, other] == 0))
    ]
    pairs = [pairs[at] for at in rng.permutation(len(pairs))]
    wanted = rate * known.sum() / 2
    for row, label, other in pairs:
        if wanted < 1:
            break
        if result[row, label] == 1 and result[row, other] == 0:
            result[row, label], result[row, other] = 0, 1
            wanted -= 1
    return result


def compared(
    about: dict[str, object],
    wrong: NDArray[np.bool_],
    image: Scores,
    others: Scores,
    resamples: int,
) -> Rows:
    """Return the areas of both scores, and of their difference, by annotation and by image."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(wrong), size=len(wrong)) for _ in range(resamples)]
    judged = ~np.isnan(image)
    rows: Rows = []
    for level in ("annotation", "image"):

        def areas(chosen: NDArray[np.int64], level: str = level) -> Scores:
            if level == "annotation":
                kept = judged[chosen]
                truth = wrong[chosen][kept]
                scores = [one[chosen][kept] for one in (image, others)]
            else:
                truth = np.any(wrong, axis=1)[chosen]
                scores = [of_images(one)[chosen] for one in (image, others)]
            return np.array([average_precision_score(truth, one) for one in scores])

        by_image, by_others = areas(np.arange(len(wrong)))
        drawn = np.array([areas(one) for one in draws])
        low, high = np.quantile(drawn[:, 1] - drawn[:, 0], (0.025, 0.975))
        rows.append(
            about
            | {"level": level, "image": by_image, "others": by_others, "low": low, "high": high}
        )
    return rows


def of_images(scores: Scores) -> Scores:
    """Return a score of each image (N,): the moving average of 1 - score, lowest last."""
    quality = -np.sort(-(1 - np.nan_to_num(scores)), axis=1)
    result = quality[:, 0]
    for column in quality.T[1:]:
        result = _SHARE_OF_SCORE * column + (1 - _SHARE_OF_SCORE) * result
    return 1 - result


def tables(results: dict[str, Rows]) -> dict[str, str]:
    """`areas`: a line for each kind and rate of errors."""
    head = ["errors", "share, %", "of", "image alone", "with other annotations", "gain"]
    lines = [
        [
            row["kind"],
            f"{100 * row['rate']:.0f}",
            f"{row['level']}s",
            f"{100 * row['image']:.1f}",
            f"{100 * row['others']:.1f}",
            f"{100 * (row['others'] - row['image']):+.1f} "
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
        ]
        for row in sorted(results["rows"], key=lambda row: (row["level"], row["kind"], row["rate"]))
    ]
    return {"areas": frame.table(lines, head)}


if __name__ == "__main__":
    main()
