"""The program in a process of its own, without the seconds that its libraries take to load.

A server process loads them once and parts into two for every run; see `multiprocessing`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

_LIBRARIES = (
    *("torch", "torchvision", "timm", "numba", "openvino", "sklearn.metrics", "networkx"),
    *("pandas", "pyarrow.parquet", "scipy.optimize", "scipy.stats", "matplotlib.pyplot"),
    *("PIL.Image", "lxml.etree", "pydantic", "rich.progress", "typer", "safetensors.torch"),
)
_LONGEST_S = 280


def run_program(
    *words: object, stdin: str = "", cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """`mlcrf WORDS`, on one thread, as a user's shell would start it."""
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "0").write_text(stdin, encoding="utf-8")
        process = _server().Process(target=_enter, args=(arguments, place, cwd or Path.cwd()))
        process.start()
        process.join(_LONGEST_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, _LONGEST_S)
        said = [(place / name).read_text(encoding="utf-8") for name in ("1", "2")]
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LIBRARIES))
    return context


def _enter(arguments: list[str], place: Path, cwd: Path) -> None:
    """Become the program: its folder, its variables, and files in place of a terminal."""
    import torch

    from mlcrf.cli import main

    os.chdir(cwd)
    os.environ.update({"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"})
    torch.set_num_threads(1)
    os.dup2(os.open(place / "0", os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        os.dup2(os.open(place / str(number), os.O_WRONLY | os.O_CREAT), number)
        stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["mlcrf", *arguments]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
