"""Estimate the time for millions of photos from measured rates.

    python experiments/benchmarks/plan.py docs/scaling.md

Rates are those of predict.json, at 500 x 375 pixels, and mapped_features.json beside this file, on
the two cores of the machines that wrote them. The rest is reckoned: a virtual core of a named
machine is taken to be as fast as one of those cores, and its price is the list price that stands
here, on demand, in dollars an hour.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import fill

HERE = Path(__file__).parent
CORES = 2  # of the machines that were measured
GPU_IMAGES_PER_S = 4000.0  # assumed of one A10G and a network like lite0; not measured
READ_GB_PER_S = 4.0  # assumed of several NVMe disks side by side; not measured
GRADIENTS = {"baseline, five penalties, and its refit": 80, "pseudo-likelihood, six penalties": 150}
FEATURES, ROWS = 1280, 100_000_000


@dataclass(frozen=True)
class Machine:
    """A kind of machine to rent."""

    name: str
    cores: int
    dollars_an_hour: float
    gpu: bool = False


MACHINES = (
    Machine("c7i.4xlarge", 16, 0.714),
    Machine("c7i.48xlarge", 192, 8.568),
    Machine("g5.2xlarge", 8, 1.212, gpu=True),
)
DISKS = Machine("i4i.8xlarge", 32, 2.746)


def tagging_rate(machine: Machine, measured: dict[str, Any]) -> tuple[float, str]:
    """Photos a second, and what holds the machine up."""
    share = machine.cores / CORES
    decoding = measured["decode_images_per_s"] * share
    crf = measured["crf_images_per_s"] * share
    if machine.gpu:
        on_cores = 1 / (1 / decoding + 1 / crf)
        slowest = "decoding" if on_cores < GPU_IMAGES_PER_S else "network"
        return min(on_cores, GPU_IMAGES_PER_S), slowest
    return measured["mlcrf_images_per_s"] * share, "network"


def tagging(measured: dict[str, Any]) -> list[list[str]]:
    """A row for each machine and number of photos."""
    rows = []
    for machine in MACHINES:
        rate, slowest = tagging_rate(machine, measured)
        for count in (10_000_000, 1_000_000_000):
            hours = count / rate / 3600
            cells = [f"{count / 1e6:,.0f} million", machine.name, f"{rate:,.0f}", f"{hours:,.1f}"]
            rows.append([*cells, f"{hours * machine.dollars_an_hour:,.0f}", slowest])
    return rows


def training(measured: dict[str, Any]) -> list[list[str]]:
    """A row for each part of a fit of 100 million images."""
    case = measured["cases"]["an eighth"]  # which stays in the system's cache: the cores' part
    scale = ROWS / case["rows"] * CORES / DISKS.cores
    reading = ROWS * FEATURES * 4 / 1e9 / READ_GB_PER_S
    parts = {"moments and rotation": (1, case["seconds_to_prepare"] * scale, 3)}
    for name, count in GRADIENTS.items():
        parts[name] = count, case["seconds_a_gradient"] * scale, 1
    rows = []
    for name, (count, computing, passes) in parts.items():
        seconds = max(computing, reading * passes)
        slowest = "cores" if computing > reading * passes else "disks"
        hours = count * seconds / 3600
        cells = [name, f"{count}", f"{computing:,.0f}", f"{reading * passes:,.0f}"]
        rows.append([*cells, f"{hours:,.1f}", f"{hours * DISKS.dollars_an_hour:,.0f}", slowest])
    return rows


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def plan() -> str:
    """Both tables, with what they assume."""
    predict = json.loads((HERE / "predict.json").read_text(encoding="utf-8"))["predict"]
    mapped = json.loads((HERE / "mapped_features.json").read_text(encoding="utf-8"))
    usual = next(row for row in predict if row["photos"].startswith("500"))
    prices = ", ".join(f"{one.name} {one.dollars_an_hour:g} $" for one in (*MACHINES, DISKS))
    heads = ["photos", "machine", "photos a second", "machine hours", "dollars", "held up by"]
    of_parts = ["part", "times", "s computing", "s reading", "hours", "dollars", "held up by"]
    return "\n\n".join(
        [
            "Tagging (reckoned):",
            table(heads, tagging(usual)),
            f"Fitting a baseline and pseudo-likelihood on {ROWS // 10**6} million images of "
            f"{FEATURES:,} features and {mapped['labels']} labels, on one {DISKS.name} (reckoned):",
            table(of_parts, training(mapped)),
            f"Prices an hour: {prices}. Assumed: {GPU_IMAGES_PER_S:,.0f} images per second on the "
            f"GPU, {READ_GB_PER_S:g} GB a second from the disks.",
        ]
    )


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        text = page.read_text(encoding="utf-8")
        page.write_text(fill(text, plan(), "plan"), encoding="utf-8")
