"""`mlcrf calibrate`: give a run images for promises, and for probabilities of label sets."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import ScoredSplit
from mlcrf.cli import console, options
from mlcrf.cli.options import ReadingOptions, RuntimeOptions, grouped


@grouped
def calibrate(
    run: options.RunDirectory,
    data: options.Data,
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Copy of the run to make (default: RUN itself is calibrated). Needed for models "
            "that came with mlcrf."
        ),
    ] = None,
    split: options.AnySplit = ScoredSplit.ALL,
    label_set: options.LabelSetOfRun = None,
    limit: options.LimitData = None,
    as_json: options.Json = False,
) -> None:
    """Calibrate RUN on labelled images of your own, for --precision, --recall and --coverage.

    They replace the calibration images that RUN had. Images that RUN was trained on are left out.
    The promise then holds for images drawn like these. Where the images gain by it, unaries and
    couplings are multiplied by a factor each, so that probabilities of label sets are right.
    """
    console.quiet()
    place = options.find_both(run, data, "calibrate")
    import numpy as np

    from mlcrf.calibrating import calibrate as run_calibration
    from mlcrf.calibrating import require_place
    from mlcrf.data.readers import read_dataset
    from mlcrf.data.splits import take_split
    from mlcrf.reports.calibration_tables import calibration_record, format_calibration

    trained = options.load_run(run, tempered=False)
    require_place(trained, out)
    features = trained.backbone_spec.features
    how = reading.make(label_set or trained.label_set, trained.labels, run_features=features)
    manifest = read_dataset(place, how)
    trained.require_input(manifest)
    options.show_reading(manifest)
    if split is not ScoredSplit.ALL:
        manifest = take_split(manifest, split)
    manifest = manifest.rows(np.arange(len(manifest))[:limit])
    extractor = runtime.make_extractor(trained)
    with console.bar("features", then="probabilities") as progress:
        report = run_calibration(trained, manifest, extractor, out=out, progress=progress)
    options.show_notes(report.notes, manifest)
    typer.echo(calibration_record(report) if as_json else format_calibration(report))
