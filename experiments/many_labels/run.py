"""Hundreds and thousands of labels: does `mlcrf train` get through, and at what time and memory?

    python -m experiments.many_labels.run [--sizes 374 ...] [--quick]
    python -m experiments.many_labels.run --defaults --sizes 374

There is no such data set here, so tags are drawn: each of MIRFLICKR's 24 labels stands for a topic
of its own, whose tags are present with chances that fall as 1 / rank, and every label may have any
tag by a small chance. Photos, and so features, are real. Couplings are sparse, eight a label; one
penalty of each kind; each size is a process of its own, whose time and peak memory are read. With
`--defaults` there are 5,000 photos, 4,500 of them to learn from, and no option at all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import frame
from experiments.frame import Rows
from mlcrf.data.manifest import Manifest, Split

SIZES = {374: 50, 1000: 20, 5000: 10}  # labels to steps of contrastive divergence
_PHOTOS = {Split.TRAIN: 2400, Split.VALIDATION: 300, Split.TEST: 300}
_PHOTOS_BY_DEFAULT = {Split.TRAIN: 4050, Split.VALIDATION: 450, Split.TEST: 500}


def draw_tags(data: Manifest, num_labels: int, seed: int) -> pd.DataFrame:
    """A table of images and tags; every tag is somewhere in training."""
    rng = np.random.default_rng(seed)
    topics = data.targets.shape[1]
    topic = rng.integers(topics, size=num_labels)
    rank = np.zeros(num_labels)
    for one in range(topics):
        members = np.flatnonzero(topic == one)
        rank[members] = 1 + np.arange(len(members))
    chance = np.where(data.targets[:, topic] == 1, 0.6 / rank, 0.3 / num_labels)
    tags = rng.random(chance.shape) < chance
    train = np.flatnonzero(np.array(data.splits) == Split.TRAIN)
    absent = np.flatnonzero(~tags[train].any(0))
    tags[rng.choice(train, size=len(absent)), absent] = True
    names = np.array([f"tag{number:04d}" for number in range(num_labels)])
    return pd.DataFrame(
        {
            "image": [image.address for image in data.images],
            "labels": [";".join(names[row]) or "[]" for row in tags],  # empty would be unknown
            "split": [split.value for split in data.splits or ()],
        }
    )


def main() -> None:
    """Draw, train, evaluate, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "many_labels",
        sizes={"nargs": "*", "type": int, "help": "numbers of labels; the others stay"},
        defaults={"action": "store_true", "help": "train without an option"},
    )
    data = frame.photos(arguments)
    if not arguments.quick:
        data = frame.first_photos(data, _PHOTOS_BY_DEFAULT if arguments.defaults else _PHOTOS)
    folder = arguments.runs / "many_labels"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {40: 10} if arguments.quick else SIZES
    wanted = {size: sizes[size] for size in arguments.sizes or sizes}
    kept = frame.earlier(arguments).get("rows", [])
    rows: Rows = [
        row
        for row in kept
        if row["labels"] not in wanted or row.get("defaults", False) != arguments.defaults
    ]
    for num_labels, steps in wanted.items():
        name = f"{num_labels}{'-defaults' if arguments.defaults else ''}"
        table, out = folder / f"{name}.csv", folder / name
        draw_tags(data, num_labels, seed=0).to_csv(table, index=False)
        settings = ["penalties=[0.3]", "pairwise_penalties=[0.01]", f"steps={steps}"]
        chosen = ["--structure", "sparse", *(word for one in settings for word in ("--set", one))]
        trained = _measured(
            ["train", str(table), "--out", str(out), "--overwrite"]
            + ([] if arguments.defaults else chosen)
        )
        resamples = str(arguments.resamples // 10)
        evaluated = _measured(["evaluate", str(out), str(table), "--resamples", resamples])
        fits = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        scores = {model: evaluated["record"]["models"][model] for model in ("independent", "crf")}
        rows.append(
            {
                "labels": num_labels,
                "defaults": arguments.defaults,
                "steps": None if arguments.defaults else steps,
                "edges": _edges(out),
                "photos": len(data),
                "train_seconds": trained["seconds"],
                "seconds": fits["seconds"],
                "train_peak_mb": trained["peak_mb"],
                "evaluate_seconds": evaluated["seconds"],
                "evaluate_peak_mb": evaluated["peak_mb"],
                "models": scores,
            }
        )
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["sizes"])


def _measured(words: list[str]) -> dict[str, Any]:
    """Run an `mlcrf` command in a process of its own; return its cost and its record."""
    read, write = os.pipe()
    began = os.times().elapsed
    process = subprocess.Popen([sys.executable, "-m", "mlcrf", *words, "--json"], stdout=write)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"mlcrf {' '.join(words)}: status {process.returncode}")
    return {
        "seconds": round(os.times().elapsed - began, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "record": json.loads(text),
    }


def _edges(out: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "mlcrf", "inspect", str(out), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(json.loads(done.stdout)["couplings"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`sizes`: time and memory by number of labels."""
    lines = [
        [
            f"{row['labels']:,d}",
            f"{row['photos']:,d}",
            f"{row['edges']:,d}",
            "defaults" if row.get("defaults") else f"one penalty, {row['steps']} steps",
            f"{row['train_seconds']:.0f}",
            f"{row['seconds']['independent']:.0f}",
            f"{row['seconds']['crf']:.0f}",
            f"{row['train_peak_mb']:,d}",
            f"{row['evaluate_seconds']:.0f}",
            f"{row['evaluate_peak_mb']:,d}",
        ]
        for row in results["rows"]
    ]
    head = [
        "labels",
        "photos",
        "couplings",
        "settings",
        "training, s",
        "baseline, s",
        "couplings, s",
    ]
    head += ["peak memory, MB", "evaluating, s", "peak memory, MB"]
    return {"sizes": frame.table(lines, head)}


if __name__ == "__main__":
    main()
