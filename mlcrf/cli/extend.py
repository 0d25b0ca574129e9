"""`mlcrf extend`: add labels to a run."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.cli import console, options
from mlcrf.cli.options import DATA, ReadingOptions, RuntimeOptions, grouped
from mlcrf.cli.repeating import provenance


@grouped
def extend(
    ctx: typer.Context,
    run: options.RunDirectory,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    label_set: options.LabelSetOfRun = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Text file of the labels of DATA, one per line.", rich_help_panel=DATA),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
    as_json: options.Json = False,
) -> None:
    """Add the labels of DATA that RUN does not know, in seconds and without training anew.

    Labels of RUN keep what they know. Where DATA says something about them, it corrects them,
    drawn towards RUN. Test images of DATA are not used.
    """
    console.quiet()
    place = options.find_both(run, data, "extend")
    base = options.load_run(run)
    from mlcrf.data.readers import read_dataset
    from mlcrf.labels import load_labels
    from mlcrf.reports.card import save_card
    from mlcrf.reports.training_tables import format_teaching, teaching_record
    from mlcrf.training.additions import extend as add
    from mlcrf.training.taught_saving import require_free

    require_free(out, overwrite=overwrite)
    expected = None if labels is None else load_labels(labels)
    features = base.backbone_spec.features
    options_of = reading.make(label_set or base.label_set, expected, run_features=features)
    manifest = read_dataset(place, options_of)
    options.show_reading(manifest)
    with console.bar("features", then="fits of labels") as progress:
        report = add(
            base,
            manifest,
            out,
            runtime.make_extractor(base),
            overwrite=overwrite,
            made_by=provenance((), ctx.params),
            progress=progress,
            fitted=progress.show_next,
        )
    save_card(report)
    options.show_notes(report.notes, manifest)
    typer.echo(teaching_record(report) if as_json else format_teaching(report))
