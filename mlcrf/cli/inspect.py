"""`mlcrf inspect`: show the content of a run or a data set."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Oddity
from mlcrf.cli import console, options


@options.grouped
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            help="Run directory or model's name, table or folder of data, or s3://... of a table."
        ),
    ],
    reading: options.ReadingOptions,
    label_set: options.LabelSet = 24,
    top: Annotated[int, typer.Option(min=0, help="Number of label pairs to list.")] = 10,
    as_json: options.Json = False,
) -> None:
    """Show labels, counts and co-occurrence of data, or labels and settings of a run."""
    console.quiet()
    from mlcrf.shipped_models import CONFIG, find_model

    place = options.parse_data(what)
    is_run = isinstance(place, Path) and (find_model(place) / CONFIG).exists()
    if not is_run:
        options.parse_source(what)
    from mlcrf.data.readers import read_dataset
    from mlcrf.reports import inspection
    from mlcrf.reports.text import to_json

    if isinstance(place, Path) and is_run:
        record = inspection.run_record(options.load_run(place))
        typer.echo(to_json(record) if as_json else inspection.format_run(record))
        return
    manifest = read_dataset(place, reading.make(label_set, accept=tuple(Oddity)))
    told = [_told(note, reading.accept or ()) for note in manifest.notes]
    options.show_reading(replace(manifest, notes=tuple(told)))
    record = inspection.dataset_record(manifest, top=top)
    typer.echo(to_json(record) if as_json else inspection.format_dataset(record))


def _told(note: str, accepted: Collection[Oddity]) -> str:
    """Return the note; of an oddity that nobody accepted it says that other commands refuse it."""
    for one in set(Oddity).difference(accepted):
        if note.startswith(mark := f"accepted ({one}): "):
            return f"refused without --accept {one}: {note.removeprefix(mark)}"
    return note
