"""`mlcrf predict`: folders of photos in, one table of labels out."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName, Program
from mlcrf.cli import console
from mlcrf.pretrained import DEFAULT


def predict(
    photos: Annotated[
        list[Path], typer.Argument(help="Folders and files; `-` reads names from standard input.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write: .csv, .jsonl or .parquet; .json with --for.")
    ],
    model: Annotated[
        Path, typer.Option(help="Run directory, or a name that `mlcrf models` lists.")
    ] = Path(DEFAULT),
    given: Annotated[
        str | None, typer.Option(help="Labels known of every photo, as in `sea=1,indoor=0`.")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            help="Labels known of some photos: any table or folder that `train` reads, with "
            "unknowns; a list says what is present and nothing of the rest."
        ),
    ] = None,
    image_root: console.ImageRoot = None,
    label_sep: console.LabelSep = None,
    album: Annotated[
        bool,
        typer.Option(
            "--album",
            help="Photos of one folder taken close in time inform each other; the run needs to "
            "have been trained with --album.",
        ),
    ] = False,
    decode: console.Decode = Decision.THRESHOLD,
    threshold: console.Threshold = None,
    top_k: console.TopK = None,
    at_least: console.AtLeast = 0,
    at_most: console.AtMost = None,
    tidy: Annotated[
        bool, typer.Option("--tidy", help="One row a photo and label, rather than one a photo.")
    ] = False,
    program: Annotated[
        Program | None, typer.Option("--for", help="Write what that program imports, as .json.")
    ] = None,
    image_url: Annotated[
        str | None,
        typer.Option(
            help="Of --for label-studio: what addresses of photos begin with; its local files "
            "if not given.",
        ),
    ] = None,
    url_root: Annotated[
        Path | None,
        typer.Option(help="The folder that --image-url stands for; / if not given."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many photos.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any photo could not be read.")
    ] = False,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
    as_json: console.Json = False,
) -> None:
    """Tag photos; every photo gives one row, or one line in a file of errors beside the output."""
    console.quiet()
    from mlcrf.backbones.engines import pick_device
    from mlcrf.checkpoint import load_run
    from mlcrf.datasets.reading import ReadOptions
    from mlcrf.decoding import Decoder
    from mlcrf.errors import DataError
    from mlcrf.prediction import PredictionWriter, Tagger, choose_form, list_pictures, read_known
    from mlcrf.reports.tables import format_predictions, predictions_record

    run = load_run(model)
    told = None
    if given is not None or known is not None:
        options = ReadOptions(run.label_set, image_root, label_sep)
        told = read_known(run.labels, run.implications, given=given, table=known, options=options)
    form = choose_form(
        program, tidy=tidy, digest=run.digest, image_url=image_url, url_root=url_root
    )
    writer = PredictionWriter(out, run.labels, overwrite=overwrite, form=form)
    if photos == [Path("-")]:
        found: Iterator[Path] = (Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
    else:
        found = list_pictures(photos)
    pictures = list(islice(found, limit))
    if not pictures:
        raise DataError(f"{', '.join(map(str, photos))}: no pictures found")
    if told is not None and told.of_photo and not told.covers(pictures):
        console.log(f"note: {known} says nothing of these photos; are its paths right?")
    tagger = Tagger(
        run,
        engine=engine,
        device=pick_device(device),
        decoder=Decoder(decode, threshold, top_k, at_least, at_most),
        cache_dir=console.cache_dir(cache_dir),
        known=told,
        album=album,
    )
    with console.bar("photos") as progress, writer:
        for done, prediction in enumerate(tagger.predict(pictures), start=1):
            writer.write(prediction)
            progress(done, len(pictures))
        writer.require_one()
    for error in writer.first_errors():
        console.log(f"error: {error}")
    typer.echo(predictions_record(writer) if as_json else format_predictions(writer))
    if writer.failed and strict:
        raise typer.Exit(1)
