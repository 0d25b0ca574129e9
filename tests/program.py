"""A program in a process of its own, without the seconds that its libraries take to load.

A server process loads them once and parts into two for every run; see `multiprocessing`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Set
from multiprocessing.context import ForkServerContext
from pathlib import Path

_LIBRARIES = (
    *(
        "tests.quiet",
        "torch",
        "torchvision",
        "timm",
        "numba",
        "openvino",
        "sklearn.metrics",
        "networkx",
    ),
    *("pandas", "pyarrow.parquet", "scipy.optimize", "scipy.stats", "matplotlib.pyplot"),
    *("PIL.Image", "lxml.etree", "pydantic", "rich.progress", "typer", "safetensors.torch"),
    *("torch._dynamo", "iterstrat.ml_stratifiers", "torchmetrics"),
)
_LONGEST_S = 850


class Program:
    """`python -m MODULE WORDS`, on one thread, as a user's shell would start it.

    `cores` are those that it may run on.
    """

    def __init__(
        self,
        *words: object,
        module: str = "mlcrf",
        stdin: str = "",
        cwd: Path | None = None,
        cores: Set[int] = frozenset(),
    ) -> None:
        self._arguments = [module, *(str(word) for word in words)]
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        (place / "0").write_text(stdin, encoding="utf-8")
        env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
        enter = (self._arguments, place, cwd or Path.cwd(), env, cores)
        self._process = _server().Process(target=_enter, args=enter)
        self._process.start()

    @property
    def process_id(self) -> int | None:
        """Its number, as long as it runs."""
        return self._process.pid if self._process.exitcode is None else None

    def send(self, number: int) -> None:
        """A signal, if it still runs."""
        if self._process.exitcode is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    def end(self, longest_s: float = _LONGEST_S) -> "subprocess.CompletedProcess[str]":
        """Wait until it ends; after so long it is killed and `subprocess.TimeoutExpired` raised."""
        self._process.join(longest_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._arguments, longest_s)
        files = [Path(self._folder.name) / name for name in ("1", "2")]
        said = [one.read_text(encoding="utf-8") if one.exists() else "" for one in files]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self._arguments, self._process.exitcode, *said)


def run_program(
    *words: object,
    module: str = "mlcrf",
    stdin: str = "",
    cwd: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Start a `Program` and wait for its end."""
    return Program(*words, module=module, stdin=stdin, cwd=cwd).end()


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LIBRARIES))
    return context


def _enter(
    arguments: list[str], place: Path, cwd: Path, env: dict[str, str], cores: Set[int]
) -> None:
    """Become the program: its folder, its variables, and files in place of a terminal."""
    import torch

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    os.dup2(os.open(place / "0", os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        os.dup2(os.open(place / str(number), os.O_WRONLY | os.O_CREAT), number)
        stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.path.insert(0, str(cwd))
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
