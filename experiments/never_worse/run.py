"""Is the CRF worse than the independent baseline by any measure, on any data set?

    python -m experiments.never_worse.run --data TABLE [TABLE ...] --out FILE
    python -m experiments.never_worse.run [--numbers FOLDER] [--sets NAME ...] [--full] [--quick]

Both models are trained with default settings and scored on the test images, which nothing else
reads. A measure is worse if the 95 % interval of the difference lies on the wrong side of 0.

With `--data`, the data sets are any that mlcrf reads. Without, they are MIRFLICKR with 300 and
1,000 training images, the data sets of numbers of a folder (see `experiments.numbers`), and sets of
100 and 1,000 labels drawn from a known sparse CRF; with `--full` also MIRFLICKR with all 10,000
training images, and 5,000 labels. Rows of other data sets in the file of figures stay.
"""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from experiments import frame
from experiments.frame import Rows
from experiments.learning_curves.run import drawn as drawn_photos
from experiments.many_labels.drawn import make_sparse_crf
from experiments.numbers import Arrays, Numbers, read_numbers
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.choices import Finetune
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.decoding import Decoder
from mlcrf.errors import MlcrfError
from mlcrf.evaluation import evaluate
from mlcrf.images import ImageBytes
from mlcrf.inference import Independent, InferenceMethod, log_mass
from mlcrf.labels import LabelSpace
from mlcrf.metrics import (
    MEASURES,
    Interval,
    Measures,
    Predictions,
    Statistics,
    bootstrap_differences,
    gather_statistics,
)
from mlcrf.model import LabelCrf
from mlcrf.reports.score_tables import choose_measures
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment
from mlcrf.training.fitting import fit_features
from mlcrf.training.progress import without_gradients
from mlcrf.training.run import train

PHOTOS = {
    f"mir{label_set}-{size}": (label_set, size)
    for size in (300, 1000, 10_000)
    for label_set in (14, 24, 38)
}
NUMBERS = ("emotions", "scene", "flags", "birds", "medical", "corel5k")
DRAWN = {"drawn100": (100, 2000), "drawn1000": (1000, 4000), "drawn5000": (5000, 8000)}
LONG = (*(name for name, (_, size) in PHOTOS.items() if size == 10_000), "drawn5000")
_FEATURES, _TESTS = 256, 1000  # of drawn sets
_MOST_BEST = 5  # labels of each image for the measures at k
_MANY_LABELS = 500  # from here on a fifth of the resamples: each costs O(N L)

_LOG = without_gradients(partial(print, flush=True))

Scores = tuple[dict[str, Measures], dict[str, Interval]]


def main() -> None:
    """Train and score both models on every data set, keep the rows, and print them."""
    arguments = frame.read_options(
        __doc__,
        "never_worse",
        data={"type": Path, "nargs": "+", "help": "data sets that mlcrf reads; needs --out"},
        photos={"type": Path, "default": Path("data/mirflickr25k"), "help": "MIRFLICKR"},
        numbers={"type": Path, "help": "folder of emotions-train.arff and the others"},
        sets={"nargs": "+", "choices": (*PHOTOS, *NUMBERS, *DRAWN), "metavar": "NAME"},
        full={"action": "store_true", "help": "also the sets that take long"},
        seed={"type": int, "default": 0},
    )
    if arguments.data and arguments.out.parent == Path(__file__).parent:
        raise SystemExit("--data: its figures are not those of the page; add --out FILE")
    arguments.settings = TrainSettings(
        seed=arguments.seed,
        finetune=Finetune.NONE,
        **(frame.QUICK if arguments.quick else {}),
    )
    names = [str(path) for path in arguments.data or ()] or _built_in(arguments)
    kept = frame.earlier(arguments) or {"rows": [], "sets": []}
    results: dict[str, Rows] = {
        key: [row for row in kept[key] if row["data"] not in names] for key in ("rows", "sets")
    }
    for name in names:
        print(f"## {name}", flush=True)
        try:
            about, rows = measure(name, arguments)
        except MlcrfError as error:
            raise SystemExit(str(error)) from error
        results["sets"].append(about)
        results["rows"] += rows
        frame.keep(arguments, **results)
    print("\n\n".join(tables(results).values()))


def _built_in(arguments: argparse.Namespace) -> list[str]:
    if arguments.sets:
        return list(arguments.sets)
    if arguments.quick:
        return ["mir14-300", "drawn100"]
    names = (*PHOTOS, *(NUMBERS if arguments.numbers else ()), *DRAWN)
    return [name for name in names if arguments.full or name not in LONG]


def measure(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """Return what a data set and its CRF are, and a row for every measure."""
    began = perf_counter()
    if arguments.data or name in PHOTOS:
        about, scores = _measure_photos(_read_photos(name, arguments), arguments)
    else:
        about, scores = measure_numbers(
            _read_numbers(name, arguments), arguments.settings, arguments.resamples
        )
    about = {"data": name, **about, "seconds": round(perf_counter() - began)}
    return about, [{"data": name, "labels": about["labels"]} | row for row in compared(*scores)]


def compared(
    models: dict[str, Measures], difference: dict[str, Interval]
) -> Iterator[dict[str, Any]]:
    """Yield for each main measure both values, the interval of the difference, and who is better.

    Main measures are those that `evaluate --at-k` prints. Precision and recall on their own, which
    every threshold trades for each other, are not among them.
    """
    for measure in choose_measures("main", _MOST_BEST):
        if measure in difference:
            _, low, high = difference[measure]
            yield {
                "measure": measure,
                "independent": getattr(models["independent"], measure),
                "crf": getattr(models["crf"], measure),
                "low": low,
                "high": high,
                "verdict": judge(measure, low, high),
            }


def judge(measure: str, low: float, high: float) -> str:
    """Return whether the CRF is worse, better or level, by the interval of CRF minus baseline."""
    if MEASURES[measure].is_loss:
        low, high = -high, -low
    return "worse" if high < 0 else "better" if low > 0 else "level"


def _read_photos(name: str, arguments: argparse.Namespace) -> Manifest:
    seed, quick = arguments.seed, arguments.quick
    if arguments.data:
        data = read_dataset(Path(name), ReadOptions(14 if quick else 24))
        data = split_manifest(data, seed=seed)
    else:
        label_set, size = PHOTOS[name]
        data = split_manifest(read_dataset(arguments.photos, ReadOptions(label_set)), seed=0)
        data = data if name in LONG else drawn_photos(data, size, seed)
    return frame.first_photos(data, frame.QUICK_PHOTOS) if quick else data


def _measure_photos(data: Manifest, arguments: argparse.Namespace) -> tuple[dict[str, Any], Scores]:
    """Train and evaluate as the commands do."""
    environment = Environment(cache_dir=cache_dir(None))
    with tempfile.TemporaryDirectory() as folder:
        report = train(data, Path(folder) / "run", arguments.settings, environment, log=_LOG)
        run, test = report.run, data.part(Split.TEST)
        result = evaluate(
            run,
            test,
            FeatureExtractor(run.make_backbone(), cache_dir=environment.cache_dir),
            split="test",
            at_k=_best(len(data.labels)),
            resamples=_resamples(arguments.resamples, len(data.labels)),
        )
    return (
        _about(data.labels, len(data) - len(test), len(test), run.crf, report.fits["crf"]),
        (result.models, result.difference),
    )


def _read_numbers(name: str, arguments: argparse.Namespace) -> Numbers:
    if name in DRAWN:
        num_labels, learned = DRAWN[name]
        crf = make_sparse_crf(num_labels, _FEATURES, seed=arguments.seed)
        labels = LabelSpace(tuple(f"label {number}" for number in range(num_labels)))
        seeds = 2 * arguments.seed + 1, 2 * arguments.seed + 2
        train, test = (
            crf.draw(num, seed=seed) for num, seed in zip((learned, _TESTS), seeds, strict=True)
        )
        return Numbers(labels, train, test)
    if arguments.numbers is None or not (arguments.numbers / f"{name}.xml").exists():
        raise SystemExit(f"{name}: give the folder that has {name}.xml by --numbers")
    return read_numbers(arguments.numbers, name)


def measure_numbers(
    numbers: Numbers, settings: TrainSettings, resamples: int
) -> tuple[dict[str, Any], Scores]:
    """Fit both models as `mlcrf train` does on features, and score them on the test rows."""
    learned = split_manifest(_manifest(numbers.train, numbers.labels), seed=settings.seed)
    is_train = np.array(learned.splits) == Split.TRAIN
    features, targets = numbers.train
    parts = [Examples(features[rows], targets[rows]) for rows in (is_train, ~is_train)]
    fitted = fit_features(*parts, numbers.labels, settings, log=_LOG)
    crf, independent = fitted.crf, fitted.independent
    method = crf.model.make_inference(fitted.plan.inference, settings)
    ours = _predict(crf.model, method, numbers.test)
    theirs = _predict(independent.model, Independent(), numbers.test)
    models = {"independent": theirs.measures(), "crf": ours.measures()}
    resamples = _resamples(resamples, len(numbers.labels))
    difference = bootstrap_differences(ours, theirs, resamples=resamples)
    counts = len(targets), len(numbers.test[1])
    return _about(numbers.labels, *counts, crf.model, crf.report), (models, difference)


def _manifest(arrays: Arrays, labels: LabelSpace) -> Manifest:
    """Return training rows as a data set, as what chooses splits and edges wants them."""
    targets = arrays[1]
    images = tuple(ImageBytes(f"row {row}", b"") for row in range(len(targets)))
    return Manifest(images, targets, labels, (Split.TRAIN,) * len(targets), "numbers")


@torch.no_grad()
def _predict(model: LabelCrf, method: InferenceMethod, arrays: Arrays) -> Statistics:
    features, targets = arrays
    potentials, known = model(torch.from_numpy(features)), torch.from_numpy(targets).long()
    posterior = method(potentials)
    best = Decoder().best(_best(targets.shape[1]))
    predictions = Predictions(
        posterior.marginals.double().numpy(),
        method.map_states(potentials).numpy(),
        (posterior.log_partition - log_mass(method, potentials, known)).double().numpy(),
        best=best(posterior, potentials, method).numpy(),
    )
    return gather_statistics(predictions, targets)


def _best(num_labels: int) -> int:
    return min(_MOST_BEST, (num_labels + 1) // 2)


def _resamples(resamples: int, num_labels: int) -> int:
    return resamples if num_labels < _MANY_LABELS else resamples // 5


def _about(
    labels: LabelSpace, train: int, test: int, crf: LabelCrf, report: dict[str, float]
) -> dict[str, Any]:
    return {
        "labels": len(labels),
        "train": train,
        "test": test,
        "edges": len(crf.edges),
        "labels_with_structure": report.get("labels_with_structure"),
        "mean_structure_weight": report.get("mean_structure_weight"),
    }


def tables(results: dict[str, Rows]) -> dict[str, str]:
    """`measures`: every row; `sets`: a line for each data set; `worse`: the rows that are worse."""
    head = ["data", "labels", "measure", "independent", "CRF", "CRF - independent", "CRF is"]
    rows = results["rows"]
    worse = [_cells(row)[:-1] for row in rows if row["verdict"] == "worse"]
    return {
        "measures": frame.table([_cells(row) for row in rows], head),
        "sets": _sets(results),
        "worse": frame.table(worse or [["none", *[""] * 5]], head[:-1]),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    measure = MEASURES[row["measure"]]
    theirs, ours = row["independent"], row["crf"]
    interval = (ours - theirs, row["low"], row["high"])
    value, low, high = (measure.format(one, signed=True) for one in interval)
    return [
        row["data"],
        f"{row['labels']:,d}",
        measure.title,
        measure.format(theirs),
        measure.format(ours),
        f"{value} [{low}, {high}]",
        row["verdict"],
    ]


def _sets(results: dict[str, Rows]) -> str:
    shown = {"nll": "nll", "hamming": "wrong, %", "mean_average_precision": "mAP, %"}
    head = ["data", "labels", "to learn from", "to test", "labels with structure"]
    head += [f"{title}: independent -> CRF" for title in shown.values()]
    head += ["measures better, level, worse"]
    lines = []
    for about in results["sets"]:
        rows = {row["measure"]: row for row in results["rows"] if row["data"] == about["data"]}
        verdicts = [row["verdict"] for row in rows.values()]
        counts = (verdicts.count(one) for one in ("better", "level", "worse"))
        used = about["labels_with_structure"]
        sizes = (f"{about[key]:,d}" for key in ("labels", "train", "test"))
        values = (" -> ".join(_cells(rows[measure])[3:5]) for measure in shown)
        lines.append(
            [
                about["data"],
                *sizes,
                "all" if used is None else f"{used:,d}",
                *values,
                ", ".join(map(str, counts)),
            ]
        )
    return frame.table(lines, head)


if __name__ == "__main__":
    main()
