"""Memory and time of fitting on more features than are to be held.

    make bench-memory [ROWS=1000000 OUT=file.json]

Features of as many pictures as `ROWS` are drawn into the shards that `mlcrf train` maps, with
labels that depend on them. One process then fits the baseline on them, mapped; another on an
eighth of the rows, so that what grows with rows shows apart from what does not; a third has that
eighth in memory. Memory is what the process itself allocates, at its most; pages of files that the
system keeps as long as there is room are given apart. Time is that of one gradient, beside what
the machine needs for its two matrix products in one go.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from timing import describe_machine

from mlcrf.backbones.feature_matrix import (
    SHARD_ROWS,
    Matrix,
    count_shards,
    map_shards,
    shard_path,
    write_shard,
)
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import independent_loss
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.preconditioner import Penalty

FEATURES, LABELS, GRADIENTS = 1280, 24, 10


def main() -> None:
    """Draw, fit in processes of their own, write the figures."""
    arguments = read_arguments()
    if arguments.fit is not None:
        record = measure(arguments.fit, arguments.rows, arguments.drawn, held=arguments.held)
        print(json.dumps(record))
        return
    rows = arguments.rows
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        began = perf_counter()
        draw(folder, rows)
        cases = {"mapped": (rows, False), "an eighth": (rows // 8, False)}
        cases["an eighth, held"] = (rows // 8, True)
        record: dict[str, Any] = {
            "machine": describe_machine(),
            "features": FEATURES,
            "labels": LABELS,
            "gigabytes": rows * FEATURES * 4 / 1e9,
            "seconds_to_write": perf_counter() - began,
            "cases": {
                case: run(folder, count, rows, held=held) for case, (count, held) in cases.items()
            },
        }
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def read_arguments() -> argparse.Namespace:
    """Parse the options; `--fit` measures one case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--drawn", type=int)
    parser.add_argument("--held", action="store_true")
    return parser.parse_args()


def draw(folder: Path, rows: int) -> None:
    """Features of a normal distribution in shards, and targets that follow a line through them."""
    weights = np.random.default_rng(0).normal(size=(FEATURES, LABELS)) / FEATURES**0.5
    targets = np.zeros((rows, LABELS), np.int8)
    for number in range(count_shards(rows)):
        rng = np.random.default_rng((1, number))
        begin = number * SHARD_ROWS
        count = min(SHARD_ROWS, rows - begin)
        block = rng.standard_normal((count, FEATURES), np.float32)
        noise = rng.logistic(size=(count, LABELS))
        targets[begin : begin + count] = block @ weights.astype(np.float32) * 2 - 1 > noise
        write_shard(shard_path(folder, number), [block], block.shape)
    np.lib.format.open_memmap(folder / "targets.npy", "w+", np.int8, targets.shape)[:] = targets


def run(folder: Path, rows: int, drawn: int, *, held: bool) -> dict[str, Any]:
    """One case, in a process of its own."""
    words = [sys.executable, __file__, "--fit", folder, "--rows", str(rows), "--drawn", str(drawn)]
    done = subprocess.run(
        [*words, "--held"] if held else words, check=True, stdout=subprocess.PIPE, text=True
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def measure(folder: Path, rows: int, drawn: int, *, held: bool) -> dict[str, Any]:
    """Fit the baseline by some gradients."""
    features: Matrix = map_shards(folder, drawn, FEATURES)[:rows]
    targets = np.array(np.lib.format.open_memmap(folder / "targets.npy", mode="r")[:rows])
    before = memory("RssAnon")
    with watching() as most:
        began = perf_counter()
        space = FeatureSpace(np.asarray(features) if held else features, targets, folder=folder)
        prepared = perf_counter() - began
        start = LabelCrf(FEATURES, LABELS, edges=no_edges())
        began = perf_counter()
        _, report = fit(
            space, start, independent_loss, Penalty(0.01, 0), tolerance=0, max_gradients=GRADIENTS
        )
        seconds = (perf_counter() - began) / report.gradients
    return {
        "rows": rows,
        "megabytes_of_targets": targets.nbytes / 2**20,
        "most_megabytes": (max(most) - before) / 1024,
        "megabytes_of_files": memory("RssFile") / 1024,
        "seconds_to_prepare": prepared,
        "seconds_a_gradient": seconds,
        "ratio_to_products": seconds / products(space),
        "gradients": report.gradients,
        "loss": report.loss,
    }


def products(space: FeatureSpace) -> float:
    """Seconds of the two products of a gradient, block after block of rows that are in memory."""
    block = space.inputs(space.blocks()[0])
    weights = torch.zeros(FEATURES, LABELS)
    count = len(space) / len(block)
    began = perf_counter()
    repeats = max(1, int(count))
    for _ in range(repeats):
        scores = block @ weights
        block.T @ scores
    return (perf_counter() - began) * count / repeats


def memory(what: str) -> int:
    """Kilobytes that this process has of that kind now."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1])


@contextmanager
def watching() -> Iterator[list[int]]:
    """Kilobytes of its own, ten times a second."""
    seen, done = [memory("RssAnon")], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            seen.append(memory("RssAnon"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
