"""`mlcrf audit`: likely errors of annotations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.cli import console, options
from mlcrf.cli.mistakes import refuse_run
from mlcrf.cli.options import ReadingOptions, RuntimeOptions, grouped

if TYPE_CHECKING:
    import pandas as pd


@grouped
def audit(
    data: options.Data,
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    model: Annotated[
        Path,
        typer.Option(
            help="Run whose network gives the features, or `none` for the published lite0; labels "
            "are fitted anew."
        ),
    ] = Path("none"),
    label_set: options.LabelSet = 24,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the suspects, likeliest first, to this .csv file; an old one is "
            "replaced."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Write all annotations instead of suspects only.")
    ] = False,
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="DATABASE",
            help="Answers of `mlcrf review`, such as sqlite:///tags.db, which replace annotations.",
        ),
    ] = None,
    corrected: Annotated[
        Path | None,
        typer.Option(
            help="With --answers: also write the corrected table to this .csv file; an old one is "
            "replaced."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Number of suspects to print.")] = 20,
    as_json: options.Json = False,
) -> None:
    """List annotations that are likely wrong, judged by the image and its other annotations.

    No annotation is judged by a model that was fitted to it.
    """
    console.quiet()
    from mlcrf import atomic
    from mlcrf.errors import SettingsError

    for path in (out, corrected):
        if path is not None:
            atomic.require_ending(path, (".csv",))
    if corrected is not None and answers is None:
        raise SettingsError("--corrected: needs --answers DATABASE, that of `mlcrf review`")
    refuse_run(data, "data to audit", f"The data of a run: mlcrf audit {data}/splits.csv")
    place = options.parse_source(data)
    from mlcrf.data.readers import read_dataset
    from mlcrf.reports.suspects import audit_record, format_audit, suspects_frame
    from mlcrf.reports.text import to_json
    from mlcrf.training.auditing import audit as judge

    manifest = read_dataset(place, reading.make(label_set))
    run = None
    if not manifest.feature_names:
        run, _ = options.load_base(model)
    options.show_reading(manifest)
    if answers is not None:
        console.require_extra("review", "sqlalchemy")
        from mlcrf.review.review_reader import correct

        manifest, changed = correct(manifest, answers)
        console.note(f"annotations that were changed by answers: {changed}")
    if corrected is not None:
        addresses = [image.address for image in manifest.images]  # a table may be anywhere
        _write(corrected, manifest.to_frame().assign(image=addresses))
    if run is not None and run.backbone_weights is not None:
        console.note("the run's network was trained: it may have seen these annotations")
    with console.bar("features", then="fits of labels") as progress:
        features = manifest.features
        if run is not None:
            run.require_input(manifest)
            features = runtime.make_extractor(run).matrix(manifest.images, progress=progress)
        assert features is not None
        found = judge(manifest, features, progress=progress.show_next)
    options.show_notes((), manifest)
    suspects = list(found.suspects(0.0 if every else 0.5))
    if out is not None:
        _write(out, suspects_frame(found, suspects))
    likely = [one for one in suspects if one.score >= 0.5]
    if as_json:
        typer.echo(to_json(audit_record(found, likely)))
    else:
        typer.echo(format_audit(found, likely, top=top))


def _write(path: Path, frame: "pd.DataFrame") -> None:
    from mlcrf import atomic
    from mlcrf.errors import DataError

    try:
        atomic.write_text(path, frame.to_csv(index=False))
    except UnicodeEncodeError as error:
        raise DataError("the name of an image is not UTF-8; rename the file", path) from error
