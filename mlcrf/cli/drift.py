"""`mlcrf drift`: whether images are like those that a run was calibrated on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import ScoredSplit
from mlcrf.cli import console, options
from mlcrf.cli.options import DATA, ReadingOptions, RuntimeOptions, grouped

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.data.manifest import Manifest
    from mlcrf.stores import Stored


@grouped
def drift(
    run: options.RunDirectory,
    data: Annotated[
        str,
        typer.Argument(
            help="Table or folder of images, with labels or without, or s3://... of a table."
        ),
    ],
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    rate: Annotated[
        float, typer.Option(help="Probability of a false alarm, of all scores together.")
    ] = 0.05,
    permutations: Annotated[int, typer.Option(min=1, help="Number of permutations.")] = 999,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Compare images only, also if labels are known.",
            rich_help_panel=DATA,
        ),
    ] = False,
    split: options.AnySplit = ScoredSplit.ALL,
    label_set: options.LabelSetOfRun = None,
    limit: options.LimitData = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 if a drift is found.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Test whether images are like the calibration images of RUN, by labels, pairs and label sets.

    Images that RUN was trained on are left out.
    """
    console.quiet()
    place = options.find_both(run, data, "drift")
    import numpy as np

    from mlcrf.data.splits import take_split
    from mlcrf.drift import find_drift
    from mlcrf.reports.drift_tables import drift_record, format_drift

    trained = options.load_run(run)
    labelled = not no_labels and _has_labels(place)
    manifest = _read(trained, place, reading, label_set, labelled=labelled)
    if split is not ScoredSplit.ALL:
        manifest = take_split(manifest, split)
    manifest = manifest.rows(np.arange(len(manifest))[:limit])
    with console.bar("features", then="tests") as progress:
        report = find_drift(
            trained,
            manifest,
            runtime.make_extractor(trained),
            use_targets=labelled,
            rate=rate,
            permutations=permutations,
            seed=seed,
            progress=progress,
        )
    options.show_notes(report.notes, manifest)
    typer.echo(drift_record(report) if as_json else format_drift(report))
    if strict and report.found:
        raise typer.Exit(1)


def _has_labels(place: "Path | Stored") -> bool:
    """Return whether a place is a data set; keywords in photos do not count as labels."""
    from mlcrf.data.readers import READERS
    from mlcrf.data.readers.keyword_folder import KEYWORD_FOLDER

    if not isinstance(place, Path):
        return True
    return any(one.detects(place) for one in READERS if one is not KEYWORD_FOLDER)


def _read(
    run: "Run",
    place: "Path | Stored",
    reading: ReadingOptions,
    label_set: int | None,
    *,
    labelled: bool,
) -> "Manifest":
    """Return the images, and their labels if these count."""
    from mlcrf.choices import Oddity
    from mlcrf.data.readers import read_dataset

    features = run.backbone_spec.features
    if labelled or features or _has_labels(place):
        how = reading.make(
            label_set or run.label_set,
            run.labels if labelled else None,
            accept=() if labelled else tuple(Oddity),
            run_features=features,
        )
        manifest = read_dataset(place, how)
        if labelled:
            options.show_reading(manifest)
        return manifest
    return _unlabelled(run, place)


def _unlabelled(run: "Run", place: "Path | Stored") -> "Manifest":
    """Return a folder of images as a data set of which nothing is known."""
    import numpy as np

    from mlcrf.cli.sources import ImageSource
    from mlcrf.data.manifest import Manifest
    from mlcrf.labels import UNKNOWN

    source = ImageSource([place])
    listed = source.list(None)
    source.require_some(listed)
    images = tuple(listed)
    targets = np.full((len(images), len(run.labels)), UNKNOWN, dtype=np.int8)
    return Manifest(images, targets, run.labels, None, str(place))
