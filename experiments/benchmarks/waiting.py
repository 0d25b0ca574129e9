"""Processor time of the same Gibbs run on one and two threads, by how OpenMP's threads wait.

    python -m experiments.benchmarks.waiting [--images 1 16 128] [--turns 9]

torch's threads spin after each parallel operation, for up to 300,000 turns of a loop (libgomp's
default), in the way of the threads that run chains and of other programs. `OMP_WAIT_POLICY=PASSIVE`
lets them sleep. libgomp reads it when it is loaded, so each policy has a process of its own.
Processor time is that of all threads, the median of turns; both threads and policies take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
from time import process_time

POLICIES = {"as torch comes": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
LABELS = 38


def main() -> None:
    """Start a process for each policy, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--alone", action="store_true", help="measure in this process")
    arguments = parser.parse_args()
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
