"""`mlcrf export`: write a run as one ONNX file."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import EngineName, GraphInference
from mlcrf.cli import console, options
from mlcrf.cli.mistakes import require_images


def export(
    run: options.RunDirectory,
    onnx: Annotated[Path, typer.Option(help="File to write, ending in .onnx.")],
    check: Annotated[
        Path | None,
        typer.Option(help="Folder or file of images to compare on; synthetic images by default."),
    ] = None,
    inference: Annotated[
        GraphInference,
        typer.Option(
            help="Inference method of the graph. auto: exact up to --max-exact-labels; mean-field "
            "if the run was trained through it; else the more accurate of mean-field and bethe."
        ),
    ] = GraphInference.AUTO,
    max_exact_labels: Annotated[
        int, typer.Option(min=1, max=28, help="Largest number of labels for exact inference.")
    ] = 24,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest accepted difference of a probability.")
    ] = 1e-4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    engine: options.Engine = EngineName.AUTO,
    cache_dir: options.CacheDir = None,
    as_json: options.Json = False,
) -> None:
    """Write network, head and CRF as one ONNX graph, from pixels to probabilities.

    The file is kept only if it agrees with the run itself. Needs `pip install 'mlcrf[onnx]'`.
    """
    console.quiet()
    from mlcrf.export import draw_images, export_onnx, load_images
    from mlcrf.reports.export_tables import export_record, format_export

    trained = options.load_run(run)
    require_images(trained, "export")
    report = export_onnx(
        trained,
        onnx,
        draw_images
        if check is None
        else partial(load_images, check, framing=trained.backbone_spec.framing),
        inference=inference,
        max_exact_labels=max_exact_labels,
        tolerance=tolerance,
        overwrite=overwrite,
        engine=engine,
        cache_dir=options.cache_dir(cache_dir),
    )
    for note in report.notes:
        console.note(note)
    typer.echo(export_record(report) if as_json else format_export(report))
