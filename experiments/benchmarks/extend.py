"""Measure `mlcrf extend`: one label more, from fifty positives, against a fit of all labels anew.

    python -m experiments.benchmarks.extend --data data/mirflickr25k --out extend.json

For each of some labels, a run of the other 23 is trained. Then a table of training images, drawn
until fifty have the label, extends it: once the table knows the new label only, once all labels.
Anew means: all 24 labels are trained on all training images, the new one known in the table's only.
Everything is scored on test images.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import Run
from mlcrf.choices import ObjectiveName, Schedule
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.metrics import Ranking
from mlcrf.training.additions import extend
from mlcrf.training.extraction import Environment
from mlcrf.training.run import train

SETTINGS = TrainSettings(
    objective=ObjectiveName.PSEUDO_LIKELIHOOD,
    schedule=Schedule.JOINT,
    structure_weights=(1.0,),
    penalties=(0.1,),
    pairwise_penalties=(0.01,),
)


def main() -> None:
    """Measure each label, and keep the figures so far."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/mirflickr25k"))
    parser.add_argument("--out", type=Path, required=True, help="file of the figures")
    parser.add_argument("--labels", default="dog,sea,night", help="the new label, in turn")
    parser.add_argument("--positives", type=int, default=50)
    arguments = parser.parse_args()
    data = split_manifest(read_dataset(arguments.data, ReadOptions(24)), seed=0)
    rows = []
    for label in arguments.labels.split(","):
        rows.append(measure(data, label, arguments.positives))
        arguments.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(rows[-1]), flush=True)


def measure(data: Manifest, label: str, positives: int) -> dict[str, Any]:
    """Return the figures of one label."""
    names = (*(name for name in data.labels if name != label), label)
    data = data.relabelled(LabelSpace(names))
    test = data.part(Split.TEST)
    table = _drawn(data.part(Split.TRAIN), positives)
    alone = replace(table, targets=table.targets[:, -1:], labels=LabelSpace((label,)))
    partly = data.targets.copy()
    in_table = {image.key for image in table.images}
    partly[[image.key not in in_table for image in data.images], -1] = UNKNOWN
    others = replace(data, targets=data.targets[:, :-1], labels=LabelSpace(names[:-1]))
    environment = Environment(cache_dir=cache_dir(None))
    row: dict[str, Any] = {"label": label, "positives": positives, "images": len(table)}
    with TemporaryDirectory() as place:
        runs = {}
        known = {"base": others, "anew": replace(data, targets=partly)}
        for name, manifest in known.items():
            start = perf_counter()
            runs[name] = train(manifest, Path(place) / name, SETTINGS, environment).run
            row[f"{name}: seconds"] = round(perf_counter() - start, 1)
        extractor = FeatureExtractor(runs["base"].make_backbone(), cache_dir=cache_dir(None))
        for name, manifest in {"extended": alone, "extended, all columns": table}.items():
            start = perf_counter()
            report = extend(runs["base"], manifest, Path(place) / name, extractor)
            runs[name] = report.run
            row[f"{name}: seconds"] = round(perf_counter() - start, 1)
            assert report.change is not None
            row[f"{name}: mean and largest change"] = report.change.mean, report.change.largest
        features = torch.from_numpy(extractor.matrix(test.images))
    for name, run in runs.items():
        precisions = average_precisions(run, features, test.targets)
        row[f"{name}: mAP of the others"] = float(np.mean(precisions[: len(names) - 1]))
        if name != "base":
            row[f"{name}: AP"] = float(precisions[-1])
    return row


@torch.no_grad()
def average_precisions(
    run: Run, features: torch.Tensor, targets: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return the average precision of each label (L,)."""
    method = run.make_inference()
    marginals = torch.cat([method(run.crf(part)).marginals for part in features.split(4096)])
    pairs = zip(marginals.double().numpy().T, targets.T, strict=False)
    ones = np.ones(len(targets))
    return np.array([Ranking(scores, truth).average_precision(ones) for scores, truth in pairs])


def _drawn(data: Manifest, positives: int) -> Manifest:
    """Return images in random order, up to the last that is needed for so many with the label."""
    order = np.random.default_rng(0).permutation(len(data))
    counts = (data.targets[order, -1] == 1).cumsum()
    return data.rows(order[: int(np.searchsorted(counts, positives)) + 1])


if __name__ == "__main__":
    main()
