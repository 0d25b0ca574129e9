"""`mlcrf predict`: write a table of labels for folders of images.

Groups of options (`KnownOptions`, `DecisionOptions`, `RuntimeOptions`) are defined in
`cli/options/`. Retired spellings are refused in `cli/retired_options.py`. An option that changes
predictions must become a field of `PredictJob` (`prediction/job.py`), so that finished parts of
`--shard` and `--cluster` are reused only if it is equal.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import RawPairs
from mlcrf.cli import console, options, tagging
from mlcrf.cli.mistakes import refuse_runs, refuse_tables
from mlcrf.cli.options import (
    CoverageOptions,
    DecisionOptions,
    KnownOptions,
    RuntimeOptions,
    grouped,
)
from mlcrf.cli.sources import ImageSource, require_there
from mlcrf.cli.stopping import raise_if_stopped
from mlcrf.shipped_models import DEFAULT

if TYPE_CHECKING:
    from mlcrf.cluster.predicting import PartsOf
    from mlcrf.prediction import PredictJob

_ARCHIVE = "Large archives"


@grouped
def predict(
    images: options.Images,
    out: Annotated[
        str,
        typer.Option(
            metavar="<path>",
            help="File to write, also s3://...: .csv, .jsonl or .parquet; with --shard a folder.",
        ),
    ],
    known: KnownOptions,
    decision: DecisionOptions,
    families: CoverageOptions,
    runtime: RuntimeOptions,
    model: options.Model = Path(DEFAULT),
    sidecar_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of sidecars, in a tree like that of the images, for --known-keywords.",
            rich_help_panel=options.KNOWN,
        ),
    ] = None,
    rename: options.Rename = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Tag the K-th of N parts of the images, and write a file to the folder --out; "
            "finished parts are skipped. `mlcrf convert` merges the parts.",
            rich_help_panel=_ARCHIVE,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ray[://HOST:PORT]",
            help="Tag on a Ray cluster: `ray` starts one on this machine, or joins $RAY_ADDRESS; "
            "ray://auto connects to the cluster already running on this machine, ray://HOST:PORT "
            "to one elsewhere. After a failure, run the same command again to continue.",
            rich_help_panel=_ARCHIVE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of workers for --cluster (default: one per up to four cores).",
            rich_help_panel=_ARCHIVE,
        ),
    ] = None,
    limit: options.Limit = None,
    null: options.Null = False,
    raw_pairs: options.RawPairsOption = RawPairs.ONE,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Tag images, and write a table with one row per image.

    Images that cannot be read are reported. `mlcrf convert` turns the table into other formats and
    files for other programs; `mlcrf tag` writes keywords beside the images.
    """
    console.quiet()
    if sidecar_dir is not None and not known.known_keywords:
        raise typer.BadParameter("--sidecar-dir is for --known-keywords; give both")
    if workers is not None and cluster is None:
        raise typer.BadParameter("--workers needs --cluster")
    refuse_runs(images, "predict")
    require_there(images)
    run, target = options.load_run(model), options.parse_data(out)
    if run.backbone_spec.features:
        source = ImageSource.read_rows(images, run)
        source.require_pixels(known_keywords=known.known_keywords, shard=shard, cluster=cluster)
    else:
        refuse_tables(images, "predict")
        source = ImageSource.read(images, null=null)
    source.require_disk(
        known_keywords=known.known_keywords, album=known.album, sidecar_dir=sidecar_dir
    )
    if cluster is not None:
        source.require_cluster(known_keywords=known.known_keywords, shard=shard)
    from mlcrf.prediction import Part, PartFormat, Parts, PredictionWriter, Table
    from mlcrf.prediction.formats import OutputFormat
    from mlcrf.prediction.formats.parts import remove_parts

    part = None if shard is None else Part.parse(shard)
    chosen = None if part is None else part.chooser(source.places, of_folders=known.album)
    listed = source.list(limit, chosen, raw_pairs)
    selection = options.SelectionOptions(rename).make_selection(run.labels, run.rules)
    job = known.make_job(
        run,
        selection,
        decision,
        limit,
        sidecar_dir=sidecar_dir,
        named=source.on_disk(listed),
        families=families,
    )
    origin = tagging.origin_of(run, selection, job)
    output: OutputFormat = Table(
        origin=origin, abstains=job.decoder.abstains, families=job.coverage is not None
    )
    if part is not None:
        output = PartFormat(part, job, origin)
        target = part.path(target)
        if not overwrite and output.is_finished(target):
            typer.echo(f"nothing to do: {target} is finished")
            return
        if not overwrite and target.exists():
            output.require_same_job(target)
    writer = PredictionWriter(target, selection.labels, overwrite=overwrite, output=output)
    source.require_some(listed)
    if part is None:
        known.note_if_unused(job, listed)
    if cluster is not None:
        from mlcrf.cluster.predicting import PartsOf

        parts = PartsOf(listed, target.with_name(f"{target.stem}.parts"), run.labels, origin)
        _tag_on_cluster(cluster, workers, parts, model, job, runtime)
        console.write_predictions(writer, Parts(parts.folder), listed, selection)
        remove_parts(parts.folder)
    else:
        with closing(tagging.make_tagger(run, job, runtime).predict_listed(listed)) as predictions:
            console.write_predictions(
                writer, predictions, listed, selection, may_be_none=part is not None
            )
    tagging.note_unreadable(job)
    console.report_predictions(
        writer,
        listed.left_out,
        as_json=as_json,
        strict=strict,
        of_all_shards=part is not None,
        what="row" if run.backbone_spec.features else "photo",
    )


def _tag_on_cluster(
    cluster: str,
    workers: int | None,
    parts: "PartsOf",
    model: Path,
    job: "PredictJob",
    runtime: RuntimeOptions,
) -> None:
    from mlcrf.cluster.predicting import predict_parts
    from mlcrf.cluster.worker import WorkerSetup

    place = model.absolute() if model.is_dir() else model
    cache = runtime.cache.absolute()
    setup = WorkerSetup(job, place, Path.cwd(), runtime.engine, runtime.device, cache)
    with console.bar("images") as progress:

        def report(done: int, total: int) -> None:
            raise_if_stopped()
            progress(done, total)

        predict_parts(cluster, setup, parts, workers=workers, progress=report, note=console.note)
    raise_if_stopped()
