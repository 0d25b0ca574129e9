"""Timing of calls, and a description of the machine."""

import importlib.util
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

_PROGRAMS = ("torch", "numba", "numpy", "dwave-samplers", "thrml", "jax", "pgmpy")
_MODULES = {"dwave-samplers": "dwave"}


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = perf_counter()
    call()
    return perf_counter() - began


def take_turns(
    calls: Mapping[str, Callable[[], object]], *, turns: int, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call in each turn.

    One after the other, so that what else the machine does hits all of them; each is called once
    before, unless it is warm already.
    """
    if warm:
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call))
    return seconds


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """Median over turns of the ratio within a turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def quartiles_of_ratio(above: Iterable[float], below: Iterable[float]) -> tuple[float, float]:
    """First and third quartile over turns of the ratio within a turn."""
    first, _, third = statistics.quantiles(a / b for a, b in zip(above, below, strict=True))
    return first, third


def installed(program: str) -> bool:
    """Return whether a peer can be imported."""
    return importlib.util.find_spec(_MODULES.get(program, program)) is not None


def describe_machine() -> dict[str, Any]:
    """Python, versions of the programs that are installed, processor, threads."""
    return {
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in _PROGRAMS if installed(name)},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
