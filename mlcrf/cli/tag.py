"""`mlcrf tag`: write keywords beside images, from the model or from a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import RawPairs, SidecarName
from mlcrf.cli import console, options, tagging
from mlcrf.cli.mistakes import refuse_runs, refuse_tables, require_images
from mlcrf.cli.options import (
    DecisionOptions,
    KnownOptions,
    RuntimeOptions,
    SelectionOptions,
    grouped,
)
from mlcrf.cli.sources import ImageSource, require_there
from mlcrf.shipped_models import DEFAULT

if TYPE_CHECKING:
    from mlcrf.images import ListedImages
    from mlcrf.keywords.sidecar_places import PhotoPlaces
    from mlcrf.prediction import (
        Change,
        LabelSelection,
        Origin,
        PhotoFileOptions,
        Prediction,
        PredictJob,
    )

_FILES = "Files"

_NO_LABELS = (None, None, KnownOptions(), DecisionOptions(), SelectionOptions())
_KEPT = "keywords that were written stay; the same command writes the rest, --undo removes them"
_NOTHING_KEPT = "nothing was written, because of --dry-run"


@grouped
def tag(
    images: options.Images,
    known: KnownOptions,
    decision: DecisionOptions,
    selected: SelectionOptions,
    runtime: RuntimeOptions,
    table: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TABLE",
            help="Take the labels not from the model but from the column `labels` of a table that "
            "`predict` or `convert` wrote; you may have edited it.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help=f"Run directory, or a name that `mlcrf models` lists (default {DEFAULT}); with "
            "--from, the run that made the table."
        ),
    ] = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Write keywords to XMP sidecars.", rich_help_panel=_FILES)
    ] = False,
    txt: Annotated[
        bool, typer.Option("--txt", help="Write a .txt beside each image.", rich_help_panel=_FILES)
    ] = False,
    embed: Annotated[
        bool,
        typer.Option(
            "--embed",
            help="Write keywords into the images themselves with exiftool; each as it was is kept, "
            "and --embed --undo brings it back.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    parent: Annotated[
        str,
        typer.Option(
            metavar="KEYWORD",
            help="Put keywords that the images do not have yet below this one, such as `AI` or "
            "`Auto|AI`, in programs with a tree of keywords.",
            rich_help_panel=_FILES,
        ),
    ] = "",
    sidecar_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for sidecars and .txt files, in a tree like that of the images.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    sidecar_name: Annotated[
        SidecarName,
        typer.Option(
            help="Name of a new sidecar of photo.jpg; an existing one keeps its name.",
            rich_help_panel=_FILES,
        ),
    ] = SidecarName.FULL,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the change of each file; write nothing.", rich_help_panel=_FILES
        ),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Remove what --xmp, --txt or --embed wrote; that of --xmp and --txt if none is "
            "given.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    replace_txt: Annotated[
        bool,
        typer.Option(
            "--replace-txt",
            help="Replace .txt files that mlcrf did not write, too; --undo brings them back.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    limit: options.Limit = None,
    null: options.Null = False,
    raw_pairs: options.RawPairsOption = RawPairs.ONE,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Write keywords beside images: XMP sidecars that photo programs read, .txt files, or both.

    Images themselves are changed only by --embed; --undo removes what was written.
    """
    console.quiet()
    if not (xmp or txt or embed or undo):
        raise typer.BadParameter("nothing to write: give --xmp, --txt, --embed or --undo")
    if undo and (table, model, known, decision, selected) != _NO_LABELS:
        raise typer.BadParameter(
            "--undo needs no labels; leave out --from, --model, and options about known labels, "
            "decisions and labels to write"
        )
    if parent and not parent.strip("| "):
        raise typer.BadParameter(f"--parent {parent!r} names no keyword; give one, such as AI")
    if table is not None and (known, decision) != (KnownOptions(), DecisionOptions()):
        raise typer.BadParameter(
            "--from replaces the model; leave it out, or --given, --known, --known-keywords, "
            "--album, --precision, --recall, --costs and the options of --decode"
        )
    refuse_runs(images, "tag")
    refuse_tables(images, "tag")
    require_there(images)
    source = ImageSource.read(images, null=null)
    source.require_disk(xmp=xmp, txt=txt, embed=embed, undo=undo)
    from mlcrf.keywords.sidecar_places import PhotoPlaces
    from mlcrf.prediction import PhotoFileOptions, PredictionWriter

    def report(change: "Change") -> None:
        typer.echo(str(change), err=as_json)

    files = PhotoFileOptions(
        xmp, txt, embed, parent, replace_txt, dry_run, report if dry_run else None
    )
    listed = source.list(limit, raw_pairs=RawPairs.BOTH if undo else raw_pairs)
    named = source.on_disk(listed)
    places = PhotoPlaces(sidecar_dir, named, new_name=sidecar_name)
    if undo:
        folders = [one for one in named if one.is_dir() and limit is None]
        if not folders:
            source.require_some(listed)
        _undo(listed, places, files, folders, as_json=as_json, strict=strict)
        return
    source.require_some(listed)
    if table is not None:
        labelled = _from_table(table, model, selected, listed)
    else:
        run = options.load_run(model or Path(DEFAULT))
        require_images(run, "tag")
        selection = selected.make_selection(run.labels, run.rules)
        job = known.make_job(run, selection, decision, limit, sidecar_dir=sidecar_dir, named=named)
        known.note_if_unused(job, listed)
        predictions = tagging.make_tagger(run, job, runtime).predict(listed)
        labelled = _Labelled(predictions, selection, tagging.origin_of(run, selection, job), job)
    selection = labelled.selection
    photo_files = files.make(places, selection.labels, labelled.origin, listed)
    writer = PredictionWriter(None, selection.labels, photo_files=photo_files)
    kept = _NOTHING_KEPT if dry_run else _KEPT
    console.write_predictions(writer, labelled.predictions, listed, selection, kept=kept)
    tagging.note_unreadable(labelled.job)
    if dry_run:
        console.note("nothing was written, because of --dry-run")
    console.report_predictions(writer, listed.left_out, as_json=as_json, strict=strict)


@dataclass(frozen=True)
class _Labelled:
    """Predictions and their origin; the job is None if they come from a table."""

    predictions: "Iterable[Prediction]"
    selection: "LabelSelection"
    origin: "Origin"
    job: "PredictJob | None" = None


def _from_table(
    text: str, model: Path | None, selected: SelectionOptions, listed: "ListedImages"
) -> _Labelled:
    from mlcrf.prediction.matching import match_images

    place = options.parse_data(text)
    read = tagging.read_table(place, model, selected, probabilities=selected.min_prob > 0)
    matched = match_images(read.table, listed, str(place))
    for note in matched.notes:
        console.note(note)
    return _Labelled(matched.predictions, read.selection, read.origin)


def _undo(
    listed: "ListedImages",
    places: "PhotoPlaces",
    files: "PhotoFileOptions",
    folders: Sequence[Path],
    *,
    as_json: bool,
    strict: bool,
) -> None:
    """Remove what was written for images and in folders, and print how many files were changed."""
    from mlcrf.errors import DataError
    from mlcrf.reports.tagging_tables import format_left_out, format_undone, undone_record

    try:
        photo_files, faults = files.undo(listed, places, folders)
    except DataError as error:
        raise DataError("\n".join([str(error), *format_left_out(listed.left_out)])) from error
    for fault in faults:
        console.log(f"error: {fault}")
    if files.dry_run:
        console.note("nothing was changed, because of --dry-run")
    summary = undone_record if as_json else format_undone
    typer.echo(summary(photo_files, len(faults), listed.left_out))
    if faults and strict:
        raise typer.Exit(1)
