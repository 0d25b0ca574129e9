"""`mlcrf evaluate`: scores of a run and of the independent baseline."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.cli import console, options
from mlcrf.cli.options import (
    CoverageOptions,
    DecisionOptions,
    EvaluationOptions,
    ReadingOptions,
    RuntimeOptions,
    grouped,
)


@grouped
def evaluate(
    run: options.RunDirectory,
    data: options.Data,
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
    """Score the CRF next to the independent baseline, with confidence intervals."""
    console.quiet()
    from mlcrf.atomic import require_ending, write_text

    if out is not None:
        require_ending(out, (".csv",))
    trained, manifest = evaluation.load(run, data, reading, "evaluate")
    from mlcrf.evaluation import evaluate as score
    from mlcrf.reports.score_tables import evaluation_csv, evaluation_record, format_evaluation

    chosen = options.choose_measures(measures, evaluation, decision)
    hints = options.read_evidence(trained, evaluation.hints, reading)
    evidence = None if hints is None else hints.of(manifest.images)
    extractor = runtime.make_extractor(trained)
    with console.bar("features", then="scores") as progress:
        result = score(
            trained,
            manifest,
            extractor,
            split=evaluation.split,
            inference=evaluation.inference,
            max_exact_labels=evaluation.max_exact_labels,
            decoder=decision.make_decoder(trained.labels),
            at_k=evaluation.at_k,
            evidence=evidence,
            coverage=families.make_coverage(),
            resamples=evaluation.resamples,
            seed=evaluation.seed,
            progress=progress,
            scoring=progress.show_next,
        )
    options.show_notes(result.notes, manifest)
    if out is not None:
        write_text(out, evaluation_csv(result))
    typer.echo(evaluation_record(result) if as_json else format_evaluation(result, chosen))
