"""Measure `mlcrf extend`: one label more, from fifty positives, against a fit of all labels anew.

    make bench-extend DATA=data/mirflickr25k [OUT=file.json RUNS=folder]

For each of some labels, a run of the other 23 is trained on all training images. Then a table of
training images, drawn until fifty have the label, extends it: once the table knows the new label
only, once all labels. Anew means: all 24 labels are trained on all training images, the new one
known in the table's only. Everything is scored on test images, of which nothing is known. The
changes are absolute differences of the other labels' marginals to those of the run of 23.

The command is timed with features and networks cached, beside `import torch`: wall time, and the
time of the processor, in which other work on the machine does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.benchmarks.timing import describe_machine
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import CONFIG, Run, load_run
from mlcrf.choices import ObjectiveName, Schedule
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.readers.table import save_manifest
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
TURNS = 3


def main() -> None:
    """Measure each label, and keep the figures so far."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/mirflickr25k"))
    parser.add_argument("--out", type=Path, required=True, help="file of the figures")
    parser.add_argument("--runs", type=Path, help="keep trained runs here, and use them again")
    parser.add_argument("--labels", default="dog,river,bird,car,sea,flower", help="new in turn")
    parser.add_argument("--positives", type=int, default=50)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    data = split_manifest(read_dataset(arguments.data, ReadOptions(24)), seed=0)
    results: dict[str, Any] = {"machine": describe_machine(), "positives": arguments.positives}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as place:
        runs = arguments.runs or Path(place)
        runs.mkdir(parents=True, exist_ok=True)
        for draw in range(arguments.draws):
            for label in arguments.labels.split(","):
                rows.append(measure(data, label, draw, arguments.positives, runs))
                if "command" not in results:
                    results["command"] = time_command(runs / label, runs / f"{label}-{draw}.csv")
                results |= {"summary": summarise(rows), "rows": rows}
                arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({**results, "rows": len(rows)}, indent=1))


def measure(data: Manifest, label: str, draw: int, positives: int, runs: Path) -> dict[str, Any]:
    """Return the figures of one label and one table, which is kept beside the runs."""
    names = (*(name for name in data.labels if name != label), label)
    data = data.relabelled(LabelSpace(names))
    test = data.part(Split.TEST)
    table = _drawn(data.part(Split.TRAIN), positives, draw)
    alone = replace(table, targets=table.targets[:, -1:], labels=LabelSpace((label,)))
    save_manifest(runs / f"{label}-{draw}.csv", replace(alone, splits=None))
    partly = data.targets.copy()
    in_table = {image.key for image in table.images}
    partly[[image.key not in in_table for image in data.images], -1] = UNKNOWN
    others = replace(data, targets=data.targets[:, :-1], labels=LabelSpace(names[:-1]))
    base = _trained(others, runs / label)
    marginals = {}
    extractor = FeatureExtractor(base.make_backbone(), cache_dir=cache_dir(None))
    features = torch.from_numpy(extractor.matrix(test.images))
    marginals["base"] = marginals_of(base, features)
    anew = _trained(replace(data, targets=partly), runs / f"{label}-{draw}")
    marginals["anew"] = marginals_of(anew, features)
    with TemporaryDirectory() as place:
        for name, manifest in {"extended": alone, "extended, all columns": table}.items():
            run = extend(base, manifest, Path(place) / name, extractor).run
            marginals[name] = marginals_of(run, features)
    row: dict[str, Any] = {"label": label, "draw": draw, "images": len(table)}
    for name, found in marginals.items():
        precisions = average_precisions(found, test.targets)
        row[f"{name}: mAP of the others"] = float(np.mean(precisions[: len(names) - 1]))
        if name != "base":
            row[f"{name}: AP"] = float(precisions[-1])
            change = (found[:, :-1] - marginals["base"]).abs()
            row[f"{name}: mean change"] = float(change.mean())
            row[f"{name}: largest change"] = float(change.max())
    return row


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over labels and draws, and the largest of the largest changes."""
    found: dict[str, Any] = {}
    for name in ("anew", "extended", "extended, all columns"):
        for figure in ("AP", "mAP of the others", "mean change"):
            found[f"{name}: {figure}"] = statistics.mean(row[f"{name}: {figure}"] for row in rows)
        found[f"{name}: largest change"] = max(row[f"{name}: largest change"] for row in rows)
        by_label: dict[str, list[float]] = {}
        for row in rows:
            by_label.setdefault(row["label"], []).append(row[f"{name}: AP"])
        found[f"{name}: AP by label"] = {
            label: statistics.mean(values) for label, values in by_label.items()
        }
    return found


def time_command(run: Path, table: Path) -> dict[str, Any]:
    """Return wall and processor seconds of `mlcrf extend` and of `import torch`, in turn."""
    python = sys.executable
    times: dict[str, list[tuple[float, float]]] = {"extend": [], "import torch": []}
    with TemporaryDirectory() as place:
        extending = [python, "-m", "mlcrf", "extend", str(run), str(table)]
        extending += ["--out", str(Path(place) / "run"), "--overwrite"]
        for turn in range(TURNS + 1):
            importing = [python, "-c", "import torch"]
            for name, command in (("extend", extending), ("import torch", importing)):
                found = _seconds_of(command)
                if turn:  # the first warms the cache
                    times[name].append(found)
    found = {}
    for name, pairs in times.items():
        walls, processors = zip(*pairs, strict=True)
        found[f"{name}: wall, s"] = statistics.median(walls)
        found[f"{name}: processor, s"] = statistics.median(processors)
    return {"label": run.name, "turns": TURNS, **found, "load": os.getloadavg()[0]}


def _seconds_of(command: Sequence[str]) -> tuple[float, float]:
    began, before = perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    return perf_counter() - began, processor


def _trained(data: Manifest, place: Path) -> Run:
    if (place / CONFIG).exists():
        return load_run(place)
    environment = Environment(cache_dir=cache_dir(None))
    return train(data, place, SETTINGS, environment, overwrite=True).run


@torch.no_grad()
def marginals_of(run: Run, features: torch.Tensor) -> torch.Tensor:
    """Return P(label present) where nothing is known, float64 (N, L)."""
    method = run.make_inference()
    return torch.cat([method(run.crf(part)).marginals for part in features.split(4096)]).double()


def average_precisions(marginals: torch.Tensor, targets: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the average precision of each label (L,)."""
    pairs = zip(marginals.numpy().T, targets.T, strict=False)
    ones = np.ones(len(targets))
    return np.array([Ranking(scores, truth).average_precision(ones) for scores, truth in pairs])


def _drawn(data: Manifest, positives: int, draw: int) -> Manifest:
    """Return images in random order, up to the last that is needed for so many with the label."""
    order = np.random.default_rng(draw).permutation(len(data))
    counts = (data.targets[order, -1] == 1).cumsum()
    return data.rows(order[: int(np.searchsorted(counts, positives)) + 1])


if __name__ == "__main__":
    main()
