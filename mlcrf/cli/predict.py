"""`mlcrf predict`: folders of photos in, one table of labels out."""

import hashlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlcrf.choices import Decision, EngineName
from mlcrf.cli import console
from mlcrf.cli.given import Given, check_outputs, is_on_disk, parse_part
from mlcrf.cli.undoing import take_back
from mlcrf.pretrained import DEFAULT

if TYPE_CHECKING:
    from mlcrf.images import ListedImages
    from mlcrf.prediction import LabelSelection, Prediction, PredictionWriter
    from mlcrf.stores import Stored


def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Folders and files, on disks or as s3://, gs://, file:// or memory:// of an "
            "object store; `-` reads names from standard input."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="File to write, also s3://...: .csv, .jsonl or .parquet; .json with --for; with "
            "--shard a folder.",
        ),
    ] = None,
    model: Annotated[
        Path, typer.Option(help="Run directory, or a name that `mlcrf models` lists.")
    ] = Path(DEFAULT),
    given: Annotated[
        str | None, typer.Option(help="Labels known of every photo, as in `sea=1,indoor=0`.")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            help="Labels known of some photos: any table or folder that `train` reads, with "
            "unknowns; a list says what is present and nothing of the rest."
        ),
    ] = None,
    known_keywords: Annotated[
        bool,
        typer.Option(
            "--known-keywords",
            help="Labels among the keywords that a person gave a photo (in its XMP, IPTC or "
            "sidecar) are known to be present.",
        ),
    ] = False,
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
    rename: Annotated[
        Path | None, typer.Option(help="Your own names: a CSV file, `label,name` a line.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Labels to write, between commas; what they imply comes with them."),
    ] = None,
    never: Annotated[
        str | None,
        typer.Option(help="Labels not to write, and with them those that imply them."),
    ] = None,
    min_prob: Annotated[float, typer.Option(help="Write labels only from this probability.")] = 0,
    tidy: console.Tidy = False,
    excel_safe: console.ExcelSafe = False,
    program: console.ForProgram = None,
    image_url: console.ImageUrl = None,
    url_root: console.UrlRoot = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Write labels as keywords to XMP sidecars.")
    ] = False,
    txt: Annotated[
        bool, typer.Option("--txt", help="Write labels to a .txt beside each photo.")
    ] = False,
    sidecar_dir: Annotated[
        Path | None,
        typer.Option(help="Put sidecars and .txt there, in a tree like that of the photos."),
    ] = None,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Tag nothing; take back what --xmp and --txt wrote, or both if neither is named.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would become of each file.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Tag the K-th of N parts of the photos, into a file of the folder --out; nothing "
            "to do if it is there. `mlcrf merge` makes one table of the parts.",
        ),
    ] = None,
    cluster: console.Cluster = None,
    workers: console.Workers = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many photos.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, and .txt not by mlcrf.")
    ] = False,
    strict: console.Strict = False,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
    as_json: console.Json = False,
) -> None:
    """Tag photos: each gives a row in a table, keywords in files beside it, or a reported error."""
    console.quiet()
    from mlcrf.prediction import BesideOptions, Change
    from mlcrf.stores import parse_target

    def report(change: Change) -> None:
        typer.echo(str(change), err=as_json)

    is_shaped = tidy or excel_safe or program is not None
    check_outputs(out, xmp=xmp, txt=txt, undo=undo, dry_run=dry_run, is_shaped=is_shaped)
    source = Given.read(
        photos,
        on_cluster=cluster is not None,
        **{"xmp": xmp, "txt": txt, "undo": undo, "sidecar_dir": bool(sidecar_dir), "album": album},
        **{"known_keywords": known_keywords, "shard": bool(shard)},
        workers=workers is not None,
    )
    options = BesideOptions(xmp, txt, overwrite, dry_run, report if dry_run else None)
    target = None if out is None else parse_target(out)
    part = parse_part(shard, target, other=is_shaped or undo)
    chosen = part.chooser(source.places, of_folders=album) if part is not None else None
    pictures = source.pictures(limit, chosen)
    named = source.on_disk(pictures)
    if undo:
        source.require_some(pictures)
        take_back(pictures, named, sidecar_dir, options, as_json=as_json, strict=strict)
        return

    from mlcrf.backbones.engines import pick_device
    from mlcrf.checkpoint import load_run
    from mlcrf.decoding import Decoder
    from mlcrf.keywords.sidecar_places import PhotoPlaces
    from mlcrf.prediction import (
        KnownKeywords,
        LabelSelection,
        PredictionWriter,
        ShardForm,
        Tagger,
        choose_form,
        load_names,
        read_known,
    )

    run = load_run(model)
    selection = LabelSelection(
        run.labels,
        run.implications,
        renamed=load_names(rename, run.labels) if rename else None,
        only=_names(only),
        never=_names(never) or (),
        min_prob=min_prob,
    )
    places = PhotoPlaces(sidecar_dir, named)
    keywords = KnownKeywords(selection, [PhotoPlaces(), places]) if known_keywords else None
    table = None if known is None else console.parse_data(known)
    told = None
    if given is not None or known is not None or keywords is not None:
        told = read_known(
            run.labels,
            run.implications,
            given=given,
            table=table,
            keywords=keywords,
            options=console.read_options(run.label_set, image_root, label_sep, None),
        )
    decoder = Decoder(decode, threshold, top_k, at_least, at_most)
    form = choose_form(
        program,
        tidy=tidy,
        excel_safe=excel_safe,
        digest=run.digest,
        image_url=image_url,
        url_root=url_root,
    )
    if part is not None and target is not None:
        made_with = {
            **{"run": run.digest, "decoder": asdict(decoder), "limit": limit, "album": album},
            **{"given": given, "known": _digest(table), "known-keywords": known_keywords},
            **{"xmp": xmp, "txt": txt},  # else a finished part would pass for one with sidecars
            **{"only": only, "never": never, "min-prob": min_prob, "rename": _digest(rename)},
        }
        form, target = ShardForm(part, made_with), part.path(target)
        if not overwrite and form.is_finished(target):
            typer.echo(f"nothing to do: {target} is finished")
            return
    writer = PredictionWriter(
        None if dry_run else target,
        selection.labels,
        overwrite=overwrite,
        form=form,
        beside=options.make(places, selection, run, pictures),
    )
    source.require_some(pictures)
    if told is not None and told.of_photo and part is None and not told.covers(pictures):
        console.log(f"note: {known} says nothing of these photos; are its paths right?")
    tagger = Tagger(
        run,
        engine=engine,
        device=pick_device("cpu" if cluster else device),
        decoder=decoder,
        cache_dir=console.cache_dir(cache_dir),
        known=told,
        album=album,
    )
    predictions = tagger.predict_listed(pictures)
    if cluster is not None:
        predictions = _on_cluster(
            *(cluster, workers, pictures, model, run.digest, engine, device, decoder),
            *(console.cache_dir(cache_dir).absolute(), told, album),
        )
    _write(predictions, selection, writer, pictures, may_be_none=part is not None)
    for fault in keywords.unreadable if keywords is not None else ():
        console.log(f"note: {fault}; tagged without them")
    console.report_predictions(writer, as_json=as_json, strict=strict)


def _write(
    predictions: "Generator[Prediction, None, None]",
    selection: "LabelSelection",
    writer: "PredictionWriter",
    pictures: "ListedImages",
    *,
    may_be_none: bool,
) -> None:
    with console.bar("photos") as progress, writer, closing(predictions):
        for done, prediction in enumerate(predictions, start=1):
            writer.write(selection(prediction))
            progress(done, len(pictures))
        if not may_be_none:
            writer.require_one()


def _on_cluster(
    cluster: str,
    workers: int | None,
    pictures: "ListedImages",
    model: Path,
    digest: str,
    *of_all: Any,
) -> "Generator[Prediction, None, None]":
    from mlcrf.cluster.predicting import predict_on
    from mlcrf.cluster.worker import Job

    place = model.absolute() if model.is_dir() else model
    job = Job(place, digest, Path.cwd(), *of_all)
    return predict_on(cluster, job, pictures, workers=workers, note=console.note)


def _digest(table: "Path | Stored | None") -> str | None:
    """Of a file what is in it, of a folder its name."""
    if table is not None and not is_on_disk(table):
        return hashlib.sha256(table.read()).hexdigest()
    if table is None or not table.is_file():
        return None if table is None else str(table)
    with table.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",")]
