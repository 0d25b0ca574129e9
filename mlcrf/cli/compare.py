"""`mlcrf compare`: scores of several runs on the same images."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.cli import console, options
from mlcrf.cli.mistakes import refuse_run
from mlcrf.cli.options import (
    CoverageOptions,
    DecisionOptions,
    EvaluationOptions,
    ReadingOptions,
    RuntimeOptions,
    grouped,
)


@grouped
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories, or names that `mlcrf models` lists; differences are from the "
            "first.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Table or folder of images and labels, or s3://... of a table.")
    ],
    evaluation: EvaluationOptions,
    reading: ReadingOptions,
    decision: DecisionOptions,
    families: CoverageOptions,
    runtime: RuntimeOptions,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write all scores to this .csv file; an old one is replaced."),
    ] = None,
    measures: options.Measures = "main",
    as_json: options.Json = False,
) -> None:
    """Score several runs on the same images, with intervals of their differences from the first.

    Runs with different labels are compared on those that all have.
    """
    console.quiet()
    from mlcrf.atomic import require_ending, write_text
    from mlcrf.shipped_models import find_run

    if out is not None:
        require_ending(out, (".csv",))
    if len(runs) < 2:
        raise typer.BadParameter(
            "expected at least two runs: mlcrf compare RUN RUN --data DATA; for one, use "
            "mlcrf evaluate"
        )
    refuse_run(data, "a table or folder for --data", "Give runs before the options.")
    for run in runs:
        find_run(run)
    options.parse_source(data)
    from mlcrf.reports.score_tables import comparison_csv, comparison_record, format_comparison

    chosen = options.choose_measures(measures, evaluation, decision)
    trained = [options.load_run(run) for run in runs]
    manifest = evaluation.read(trained, data, reading)
    result = evaluation.compare(trained, manifest, reading, decision, runtime, families)
    options.show_notes(result.notes, manifest)
    if out is not None:
        write_text(out, comparison_csv(result))
    typer.echo(comparison_record(result) if as_json else format_comparison(result, chosen))
