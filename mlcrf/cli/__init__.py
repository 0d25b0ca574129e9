"""The command line: one module per command; nothing else prints or exits."""

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from mlcrf.cli.audit import audit
from mlcrf.cli.calibrate import calibrate
from mlcrf.cli.compare import compare
from mlcrf.cli.convert import convert
from mlcrf.cli.demo import demo
from mlcrf.cli.doctor import doctor
from mlcrf.cli.download import download
from mlcrf.cli.drift import drift
from mlcrf.cli.evaluate import evaluate
from mlcrf.cli.export import export
from mlcrf.cli.extend import extend
from mlcrf.cli.features import features
from mlcrf.cli.inspect import inspect
from mlcrf.cli.models import models
from mlcrf.cli.options import PanelCommand
from mlcrf.cli.plot_correlations import plot_correlations
from mlcrf.cli.predict import predict
from mlcrf.cli.report import report
from mlcrf.cli.retired_options import PredictCommand, merge
from mlcrf.cli.review import review
from mlcrf.cli.serve import serve
from mlcrf.cli.stopping import STOPPED, stopping
from mlcrf.cli.tag import tag
from mlcrf.cli.train import TrainCommand, train
from mlcrf.errors import MlcrfError
from mlcrf.version import __version__

app = typer.Typer(
    name="mlcrf",
    help="Tag photos with sets of labels that agree with each other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_CLASSES = {predict: PredictCommand, train: TrainCommand}
for command in (
    download,
    train,
    extend,
    evaluate,
    compare,
    calibrate,
    drift,
    audit,
    report,
    predict,
    tag,
    convert,
    features,
    review,
    serve,
    export,
    plot_correlations,
    models,
    inspect,
    demo,
    doctor,
):
    app.command(cls=_CLASSES.get(command, PanelCommand))(command)
app.command(hidden=True, context_settings={"ignore_unknown_options": True})(merge)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlcrf {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Tag photos with sets of labels that agree with each other."""


def main() -> None:
    """Run a command; errors that a user can fix are printed as one line, with status 1."""
    if "" in sys.argv[1:]:
        typer.echo("error: an argument is empty; perhaps a shell variable is not set", err=True)
        sys.exit(1)
    atexit.register(gc.freeze)  # or the interpreter, to end, searches all of torch for garbage
    try:
        with stopping():
            app()
    except MlcrfError as error:
        if _is_reporting():
            typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except SystemExit as stop:
        # the signal may come while an error is handled, after `train` could have printed this
        if stop.code in STOPPED and _is_one_of_several() and _is_reporting():
            typer.echo("stopped; run the same command with --resume to continue", err=True)
        raise
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        _discard_output()
        sys.exit(0)
    except OSError as error:
        _discard_output()
        where = error.filename or "standard output"
        typer.echo(f"error: {where}: {error.strerror or error}", err=True)
        sys.exit(1)


def _is_reporting() -> bool:
    """Return whether this process prints errors: of processes that train together, one does."""
    if not _is_one_of_several():
        return True
    from mlcrf.processes import speaks

    return speaks()


def _is_one_of_several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _discard_output() -> None:
    """Discard output that is still buffered, since nobody can read it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
