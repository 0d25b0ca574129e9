"""Output of the commands: results, and the log and progress bar on standard error."""

import getpass
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from mlcrf.cli.progress import Progress, shown
from mlcrf.cli.stopping import STOPPED
from mlcrf.errors import MlcrfError, MlcrfWarning

if TYPE_CHECKING:
    from mlcrf.images import LeftOut
    from mlcrf.prediction import LabelSelection, Prediction, PredictionWriter


def quiet() -> None:
    """Silence warnings that a user cannot act on, such as odd metadata or deprecated functions.

    mlcrf's own warnings are printed as one line on standard error.
    """
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=MlcrfWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    note(str(message))


def require_extra(extra: str, *modules: str) -> None:
    """Check that an optional dependency is installed; if not, say how to install it.

    Raises:
        MlcrfError: one of the modules is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MlcrfError(
            f"this needs {', '.join(missing)}, not installed here; pip install 'mlcrf[{extra}]'"
        )


def login_name() -> str:
    """Return the login name, or `somebody` if it is unknown."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"


def log(message: str) -> None:
    """Print a line on standard error, above a bar of progress."""
    progress = shown()
    if progress is None:
        typer.echo(message, err=True)
    else:
        progress.log(message)


def note(message: str) -> None:
    """Print a note; the command continues."""
    log(f"note: {message}")


def write_predictions(
    writer: "PredictionWriter",
    predictions: "Iterable[Prediction]",
    listed: Sized,
    selection: "LabelSelection",
    *,
    may_be_none: bool = False,
    kept: str = "features that were computed are kept in the cache",
) -> None:
    """Write predictions as they come, with a progress bar.

    Args:
        listed: the images of the predictions.
        kept: what is kept if the command is stopped.
        may_be_none: accept that no image was listed or could be tagged.

    Raises:
        DataError: no image could be tagged; gives the reason for the first few, and what a walk has
            left out.
    """
    from mlcrf.images import ListedImages
    from mlcrf.reports.tagging_tables import format_left_out

    nothing = "" if writer.path is None else f"{writer.path} was not written; "
    with bar("images", kept=f"{nothing}{kept}") as progress, writer:
        progress(0, len(listed))
        for prediction in predictions:  # the tagger shows the progress, image by image
            writer.write(selection(prediction))
        if not may_be_none:
            left_out = listed.left_out if isinstance(listed, ListedImages) else None
            writer.require_one(*format_left_out(left_out))


def report_predictions(
    writer: "PredictionWriter",
    left_out: "LeftOut | None" = None,
    *,
    as_json: bool,
    strict: bool,
    of_all_shards: bool = False,
    what: str = "photo",
) -> None:
    """Print the first errors and a summary, with what a walk has left out.

    Exits with status 1 if `strict` and there were errors, or a folder could not be read.

    Args:
        of_all_shards, what: see `format_predictions`.
    """
    from mlcrf.images.file_kinds import Kind
    from mlcrf.reports.tagging_tables import format_predictions, predictions_record

    for error in writer.first_errors():
        log(f"error: {error}")
    if as_json:
        typer.echo(predictions_record(writer, left_out, of_all_shards=of_all_shards))
    else:
        typer.echo(format_predictions(writer, left_out, of_all_shards=of_all_shards, what=what))
    is_partial = left_out is not None and left_out[Kind.UNREADABLE] > 0
    if strict and (writer.failed or is_partial):
        raise typer.Exit(1)


@contextmanager
def bar(
    title: str, *, then: str = "", kept: str = "features that were computed are kept in the cache"
) -> Iterator["Tasks"]:
    """Show progress on standard error; when the command is stopped, say what is kept.

    Args:
        then: the task that follows once all is done, whose length is not known yet.
    """
    progress = Progress(title)
    try:
        with progress.drawn():
            yield Tasks(progress, title, then)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or stop.code in STOPPED:
            log(f"stopped; {kept}")
        raise


@dataclass(frozen=True)
class Tasks:
    """Tasks that a bar shows one after the other; called, it shows the first."""

    progress: Progress
    title: str
    then: str

    def __call__(self, done: int, total: int) -> None:
        if self.then and done >= total:
            self.progress.show(self.then, 0, 0)
        else:
            self.progress.show(self.title, done, total)

    def show_next(self, done: int, total: int) -> None:
        """Show the task that follows, once its length is known."""
        self.progress.show(self.then, done, total)
