"""What the commands share: options, the log and the bar on standard error."""

import getpass
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName
from mlcrf.errors import MlcrfError, MlcrfWarning

RunDirectory = Annotated[
    Path, typer.Argument(help="Run directory, or a name that `mlcrf models` lists.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps and so on.")]
Engine = Annotated[
    EngineName,
    typer.Option(help="What runs a frozen network; auto: the fastest that gives what torch gives."),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where features are kept; $MLCRF_CACHE or ~/.cache/mlcrf by default."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
LabelSet = Annotated[
    int, typer.Option(help="MIRFLICKR only: 24 potential labels, 14 relevant, or 38 both.")
]
ImageRoot = Annotated[
    Path | None, typer.Option(help="What image paths of a table are relative to.")
]
Decode = Annotated[Decision, typer.Option(help="How label sets are chosen from the beliefs.")]
Threshold = Annotated[
    float | None, typer.Option(help="Of --decode threshold; 0.5 if none is given.")
]
TopK = Annotated[int | None, typer.Option(help="How many labels --decode top-k takes.")]
AtLeast = Annotated[int, typer.Option(help="Choose no fewer labels.")]
AtMost = Annotated[int | None, typer.Option(help="Choose no more labels.")]
LabelSep = Annotated[str | None, typer.Option(help="What separates labels in one column.")]


def quiet() -> None:
    """Silence warnings that a user can do nothing about: odd metadata, libraries' plans.

    What mlcrf itself warns of is one line on standard error.
    """
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=MlcrfWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    log(f"note: {message}")


def cache_dir(given: Path | None) -> Path:
    """Where features are kept: as given, $MLCRF_CACHE, or the user's cache folder."""
    if given is not None:
        return given
    if "MLCRF_CACHE" in os.environ:
        return Path(os.environ["MLCRF_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlcrf"


def require_extra(extra: str, *modules: str) -> None:
    """Say how to install what a command needs and most users do not.

    Raises:
        MlcrfError: one of the modules is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MlcrfError(
            f"this needs {', '.join(missing)}, not installed here; pip install 'mlcrf[{extra}]'"
        )


def login_name() -> str:
    """Who uses this machine, `somebody` if it does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"


def log(message: str) -> None:
    """One line on standard error."""
    typer.echo(message, err=True)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error that is there only on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
