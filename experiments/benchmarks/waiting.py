"""Cost of how OpenMP's threads wait: of Gibbs on one and two threads, or of `mlcrf train`.

    python -m experiments.benchmarks.waiting [--images 1 16 128] [--turns 9]
    make bench-waiting DATA=folder      # training on 24 labels instead; waiting.json

torch's threads spin after each parallel operation, for up to 300,000 turns of a loop (libgomp's
default), in the way of the threads that run chains and of other programs. `OMP_WAIT_POLICY=PASSIVE`
lets them sleep. libgomp reads it when it is loaded, so each policy has a process of its own.
Processor time is that of all threads, the median of turns; both threads and policies take turns.
`mlcrf train` sets this policy; what torch comes with is then asked for by its number of turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

POLICIES = {
    "as torch comes": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
LABELS = 38


def main() -> None:
    """Start a process for each policy, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--alone", action="store_true", help="measure in this process")
    parser.add_argument("--train", type=Path, metavar="DATA", help="time `mlcrf train` instead")
    parser.add_argument("--out", type=Path, help="with --train: file of the figures")
    arguments = parser.parse_args()
    if arguments.train:
        time_training(arguments.train, arguments.turns, arguments.out)
        return
    if arguments.alone:
        for images in arguments.images:
            one, two = measure(images, arguments.turns)
            print(f"{images} images: {one:.1f} ms on one thread, {two:.1f} ms on two", flush=True)
        return
    for name, variables in POLICIES.items():
        print(name, flush=True)
        words = [sys.executable, "-m", "experiments.benchmarks.waiting", *sys.argv[1:], "--alone"]
        unset = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        subprocess.run(words, env=unset | variables, check=True)


def time_training(data: Path, turns: int, out: Path | None) -> None:
    """Train on 24 labels by each policy in turn; seconds by the clock and of processors."""
    from experiments.benchmarks.timing import describe_machine

    unset = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in POLICIES}
    for turn in range(turns + 1):
        for name, variables in POLICIES.items():
            with TemporaryDirectory() as place:
                words = ["train", data, "--label-set", "24", "--finetune", "none"]
                words += ["--out", f"{place}/run"]
                began, before = perf_counter(), os.times()
                subprocess.run(
                    [sys.executable, "-m", "mlcrf", *words],
                    env=unset | variables,
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                wall, after = perf_counter() - began, os.times()
            processor = after.children_user + after.children_system
            processor -= before.children_user + before.children_system
            if turn:  # features may be computed first
                found[name].append((wall, processor))
                print(f"{name}: {wall:.1f} s, {processor:.1f} s of processors", flush=True)
    medians = {
        name: dict(
            zip(
                ("wall, s", "processor, s"),
                map(statistics.median, zip(*rows, strict=True)),
                strict=True,
            )
        )
        for name, rows in found.items()
    }
    results = {"machine": describe_machine(), "turns": turns, **medians}
    print(json.dumps(results, indent=1))
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(images: int, turns: int) -> list[float]:
    """Return the median processor time on one and on two threads, ms."""
    import torch

    from mlcrf.crf import Potentials, full_edges
    from mlcrf.inference import Gibbs

    generator = torch.Generator().manual_seed(0)
    edges = full_edges(LABELS)
    potentials = Potentials(
        torch.randn(images, LABELS, generator=generator) - 2,
        edges,
        0.3 * torch.randn(len(edges), generator=generator),
    )
    found: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns + 1):
        for threads, times in found.items():
            torch.set_num_threads(threads)
            began = process_time()
            Gibbs()(potentials)
            if turn:  # the first one compiles
                times.append(1000 * (process_time() - began))
    return [statistics.median(times) for times in found.values()]


if __name__ == "__main__":
    main()
