"""`mlcrf report`: write the scores of a run as one web page."""

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
def report(
    run: options.RunDirectory,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Page to write (.html).")],
    evaluation: EvaluationOptions,
    reading: ReadingOptions,
    decision: DecisionOptions,
    families: CoverageOptions,
    runtime: RuntimeOptions,
    images: Annotated[
        int, typer.Option(min=0, max=200, help="Maximum number of images in each gallery.")
    ] = 12,
    thumbnail_px: Annotated[
        int, typer.Option(min=32, max=1024, help="Longer side of images in the page, in pixels.")
    ] = 256,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Compare another run on the same images, as `mlcrf compare`; may be repeated.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write one self-contained page: measures, labels, curves, couplings, galleries.

    The page holds what `evaluate` prints, and small copies of images with their labels and file
    names. It loads nothing from the network.
    """
    console.quiet()
    from mlcrf.atomic import require_ending
    from mlcrf.errors import MlcrfError

    require_ending(out, (".html", ".htm"))
    if out.exists() and not overwrite:
        raise MlcrfError(f"{out}: exists already; choose another --out or --overwrite")
    others = [options.load_run(one) for one in compare or ()]
    trained, manifest = evaluation.load(run, data, reading, "report", others)
    from mlcrf.evaluation import answer, score
    from mlcrf.reports.webpage import Gallery, save_report

    hints = options.read_evidence(trained, evaluation.hints, reading)
    evidence = None if hints is None else hints.of(manifest.images)
    extractor = runtime.make_extractor(trained)
    with console.bar("features", then="scores") as progress:
        answers = answer(
            trained,
            trained.take_input(manifest),
            extractor,
            inference=evaluation.inference,
            max_exact_labels=evaluation.max_exact_labels,
            decoder=decision.make_decoder(trained.labels),
            at_k=evaluation.at_k,
            evidence=evidence,
            coverage=families.make_coverage(),
            with_surprise=True,
            progress=progress,
        )
        result = score(
            trained,
            answers,
            split=evaluation.split,
            resamples=evaluation.resamples,
            seed=evaluation.seed,
            progress=progress.show_next,
        )
    options.show_notes(result.notes, manifest)
    comparison = None
    if others:
        comparison = evaluation.compare(
            [trained, *others], manifest, reading, decision, runtime, families
        )
    save_report(out, trained, answers, result, Gallery(images, thumbnail_px), comparison)
    typer.echo(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
