"""`mlcrf predict --undo`: what --xmp and --txt wrote is taken back."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlcrf.cli import console

if TYPE_CHECKING:
    from mlcrf.images import ListedImages
    from mlcrf.prediction import BesideOptions


def take_back(
    pictures: "ListedImages",
    named: Iterable[Path],
    sidecar_dir: Path | None,
    options: "BesideOptions",
    *,
    as_json: bool,
    strict: bool,
) -> None:
    """Take it out of the files of all pictures, and say what became of these."""
    from mlcrf.keywords.sidecar_places import PhotoPlaces
    from mlcrf.reports.tables import format_undone, undone_record

    beside, faults = options.undo(pictures, PhotoPlaces(sidecar_dir, named))
    for fault in faults:
        console.log(f"error: {fault}")
    typer.echo((undone_record if as_json else format_undone)(beside, len(faults)))
    if faults and strict:
        raise typer.Exit(1)
