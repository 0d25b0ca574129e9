"""Options that name a run, and loading it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.cli.mistakes import refuse_swapped
from mlcrf.cli.options.data import parse_source

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.stores import Stored

MODEL_HELP = "Run directory, or a name that `mlcrf models` lists."
RunDirectory = Annotated[Path, typer.Argument(help=MODEL_HELP)]
Model = Annotated[Path, typer.Option(help=MODEL_HELP)]


def load_run(path: Path, *, tempered: bool = True) -> "Run":
    """Load the run that a user names; if there is none, say so before anything heavy is imported.

    Args:
        tempered: with the factors that its calibration images chose.

    Raises:
        RunError: see `mlcrf.checkpoint.load_run`.
    """
    from mlcrf.shipped_models import find_run

    path = find_run(path)
    from mlcrf.checkpoint import load_run as load

    return load(path, tempered=tempered)


def load_base(path: Path) -> "tuple[Run, Run | None]":
    """Load the run that labels are added to: its network for features, and the run.

    `none` is no run to add to; features are then those of the published network.
    """
    from mlcrf.shipped_models import DEFAULT

    if str(path) == "none":
        return load_run(Path(DEFAULT)).with_published_network(), None
    run = load_run(path)
    return run, run


def find_both(run: Path, data: str, command: str) -> "Path | Stored":
    """Return where data are, for a command on a run and data; see that both are there.

    Raises:
        MlcrfError: one of them is not there, or they are in each other's place.
    """
    from mlcrf.shipped_models import find_run

    refuse_swapped(run, data, command)
    find_run(run)
    return parse_source(data)
