"""`mlcrf predict` as the command that users type: its start, its memory, its second run."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from timing import take_turns

from mlcrf.backbones.engines import make_engine
from mlcrf.backbones.extractor import BATCH_SIZE
from mlcrf.checkpoint import Run
from mlcrf.choices import EngineName


@dataclass(frozen=True)
class Ended:
    """Run time of a command, and its peak resident memory."""

    seconds: float
    peak_mb: float


def run_predict(run: Path, photos: Path, cache: Path, *options: str) -> Ended:
    """Tag a folder in a process of its own; the table goes beside the cache and is replaced."""
    table = ["--out", str(cache.with_suffix(".csv")), "--overwrite"]
    return run_command("predict", run, photos, cache, *table, *options)


def run_command(name: str, run: Path, photos: Path, cache: Path, *options: str) -> Ended:
    """Run `predict` or `tag` on a folder in a process of its own."""
    command = [sys.executable, "-m", "mlcrf", name, str(photos), "--model", str(run)]
    command += ["--cache-dir", str(cache), *options]
    began = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak_kb = 0
    while process.poll() is None:  # what wait4 says counts us too, whom it was forked from
        peak_kb = max(peak_kb, _high_water_kb(process.pid))
        sleep(0.05)
    seconds = perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Ended(seconds, peak_kb * 1.024e-3)


def _high_water_kb(process: int) -> int:
    """The kernel's own mark of the peak of resident memory; 0 of a process that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


def measure_start(run: Path, photos: Sequence[Path], folder: Path) -> dict[str, Any]:
    """One photo with nothing kept and with a converted network; all photos, then again."""
    place, cache = photos[0].parent, folder / "kept"
    first, warm = (run_predict(run, place, cache, "--limit", str(limit)) for limit in (1, 2))
    fresh, again = (run_predict(run, place, cache) for _ in range(2))
    return {
        "first_row_s": first.seconds,
        "first_row_warm_s": warm.seconds,
        "images_per_s": len(photos) / fresh.seconds,
        "again_images_per_s": len(photos) / again.seconds,
    }


def measure_memory(
    run: Path, photo: Path, counts: Sequence[int], folder: Path
) -> list[dict[str, Any]]:
    """Peak memory for folders of that many copies (hard links) of one small photo.

    Features of the same content are computed once, so that decoding and the CRF take the time.
    """
    rows = []
    folder.mkdir()
    for count in counts:
        place = folder / f"links-{count}"
        for number in range(count):
            link = place / f"{number // 10_000:03d}" / f"{number:07d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(photo, link, folder / "originals", number)
        ended = run_predict(run, place, folder / f"kept-{count}")
        rows.append({"count": count, "peak_mb": ended.peak_mb, "seconds": ended.seconds})
    return rows


def _link(photo: Path, link: Path, originals: Path, number: int) -> None:
    """Hard links of a file are limited (to 65,000 on ext4), so some are of another copy."""
    original = originals / f"{number // 30_000}.jpg"
    if not original.exists():
        originals.mkdir(exist_ok=True)
        original.write_bytes(photo.read_bytes())
    os.link(original, link)


def measure_engines(run: Run, pixels: np.ndarray) -> list[dict[str, Any]]:
    """Photos a second of every engine, and how far its features are from torch's in float32."""
    engines = {
        name: make_engine(name, run.make_backbone(), torch.device("cpu"))
        for name in EngineName
        if name not in (EngineName.AUTO, EngineName.TORCH_BFLOAT16)  # the latter is for GPUs
    }
    batch = pixels[:BATCH_SIZE]
    found = {name: engine(batch) for name, engine in engines.items()}
    expected = found[EngineName.TORCH]
    calls = {name: partial(engine, batch) for name, engine in engines.items()}
    seconds = take_turns(calls, turns=5, warm=False)
    return [
        {
            "engine": name.value,
            "images_per_s": len(batch) / median(seconds[name]),
            "largest_difference": float(np.abs(found[name] - expected).max() / expected.max()),
        }
        for name in engines
    ]
