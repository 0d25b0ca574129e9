"""Calls in a process of their own: on some of the cores, with its memory watched."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

# Forked from a server that has imported what takes long, but started none of torch's threads.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["mlcrf.inference", "mlcrf.checkpoint", "mlcrf.data.splits", "matplotlib.pyplot", "numba"]
)


class Stopped(Exception):  # noqa: N818  it is how a call ended, not always an error
    """The process did not come to an end, and why."""


def run_apart(function: Callable[..., Any], *arguments: Any, cores: int, timeout_s: float) -> Any:
    """Call a function in a fresh process limited to some cores, and return its result.

    Raises:
        Stopped: it took longer than the limit, or was killed, as happens when memory runs out.
        RuntimeError: it raised an exception, whose traceback is the message.
    """
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(theirs, cores, function, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise Stopped(f"not done after {timeout_s:.0f} s")
        result, error = ours.recv()
    except EOFError:
        raise Stopped("killed, which is what happens when memory runs out") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if error:
        raise RuntimeError(error)
    return result


def peak_memory_mb(call: Callable[[], object]) -> float:
    """By how much a call's peak of resident memory exceeds what was resident before, in MB.

    Linux only: the kernel's own high-water mark, set back before the call.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / 1e3


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) * 1.024


def _work(
    connection: Connection, cores: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    try:
        connection.send((function(*arguments), ""))
    except Exception:  # noqa: BLE001  handed on to the parent
        connection.send((None, traceback.format_exc()))
