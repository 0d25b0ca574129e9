"""What the commands share: options, the log and the bar on standard error."""

import getpass
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import Decision, EngineName, Program
from mlcrf.errors import MlcrfError, MlcrfWarning

if TYPE_CHECKING:
    from mlcrf.data.readers.choosing import ReadOptions
    from mlcrf.labels import LabelSpace
    from mlcrf.prediction import PredictionWriter
    from mlcrf.stores import Stored

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
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 1 if any photo could not be tagged.")
]
Tidy = Annotated[
    bool, typer.Option("--tidy", help="One row a photo and label, rather than one a photo.")
]
ExcelSafe = Annotated[
    bool,
    typer.Option(
        "--excel-safe",
        help="Of .csv: nothing in it becomes a formula in a spreadsheet, by an apostrophe before "
        "names that begin like one; and the mark that lets Excel read its letters.",
    ),
]
ForProgram = Annotated[
    Program | None, typer.Option("--for", help="Write what that program imports, as .json.")
]
ImageUrl = Annotated[
    str | None,
    typer.Option(
        help="Of --for label-studio: what addresses of photos begin with; its local files if not "
        "given.",
    ),
]
UrlRoot = Annotated[
    Path | None, typer.Option(help="The folder that --image-url stands for; / if not given.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ray[://HOST:PORT]",
        help="Tag on a cluster of Ray: `ray` starts one on this machine, or joins $RAY_ADDRESS; "
        "ray://auto joins the one that runs here, ray://HOST:PORT one elsewhere.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Of --cluster: how many; one for up to four cores by default."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
LabelSet = Annotated[
    int, typer.Option(help="MIRFLICKR only: 24 potential labels, 14 relevant, or 38 both.")
]
ImageRoot = Annotated[
    str | None,
    typer.Option(help="Folder, or s3://... of one, that image paths of a table are relative to."),
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
    note(str(message))


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


def parse_data(text: str) -> "Path | Stored":
    """A path, or what a URL in an object store names.

    Raises:
        DataError: a scheme that we do not know, no bucket, or the driver is not installed.
    """
    from mlcrf.stores import parse_target

    return parse_target(text)


def read_options(
    label_set: int, image_root: str | None, label_sep: str | None, labels: "LabelSpace | None"
) -> "ReadOptions":
    """What the options say of data that does not say it itself.

    Raises:
        DataError: see `parse_data`.
    """
    from mlcrf.data.readers.choosing import ReadOptions

    root = None if image_root is None else parse_data(image_root)
    return ReadOptions(label_set, root, label_sep, labels)


def log(message: str) -> None:
    """One line on standard error."""
    typer.echo(message, err=True)


def note(message: str) -> None:
    """Something that a user should know of work that goes on."""
    log(f"note: {message}")


def report_predictions(writer: "PredictionWriter", *, as_json: bool, strict: bool) -> None:
    """Say what was written, and the first errors; status 1 if strict and there are any."""
    from mlcrf.reports.tables import format_predictions, predictions_record

    for error in writer.first_errors():
        log(f"error: {error}")
    typer.echo(predictions_record(writer) if as_json else format_predictions(writer))
    if writer.failed and strict:
        raise typer.Exit(1)


@contextmanager
def bar(what: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
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
    hidden = hidden or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
