"""`mlcrf evaluate`: how good a run is, beside the independent baseline."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName, InferenceName
from mlcrf.cli import console


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="Run directory, or a name that `mlcrf models` lists.")
    ],
    data: Annotated[Path, typer.Argument(help="Table or folder of images and labels.")],
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    label_set: Annotated[
        int | None,
        typer.Option(help="MIRFLICKR only: 24, 14 or 38; that of the run by default."),
    ] = None,
    image_root: console.ImageRoot = None,
    label_sep: console.LabelSep = None,
    inference: Annotated[
        InferenceName | None, typer.Option(help="Another one than the run was trained for.")
    ] = None,
    max_exact_labels: Annotated[
        int | None,
        typer.Option(min=1, max=40, help="Up to how many labels exact inference is used."),
    ] = None,
    decode: console.Decode = Decision.THRESHOLD,
    threshold: console.Threshold = None,
    top_k: console.TopK = None,
    at_least: console.AtLeast = 0,
    at_most: console.AtMost = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score the first so many images alone.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write all figures to that .csv file too.")
    ] = None,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
    as_json: console.Json = False,
) -> None:
    """Score the CRF and the independent baseline side by side, with intervals and a signature."""
    console.quiet()
    import numpy as np

    from mlcrf.atomic import require_ending, write_text
    from mlcrf.backbones.engines import pick_device
    from mlcrf.backbones.features import FeatureExtractor
    from mlcrf.checkpoint import load_run
    from mlcrf.datasets.reading import ReadOptions, read_dataset
    from mlcrf.datasets.splits import take_split
    from mlcrf.decoding import Decoder
    from mlcrf.evaluation import evaluate as score
    from mlcrf.reports.tables import evaluation_csv, evaluation_record, format_evaluation

    if out is not None:
        require_ending(out, (".csv",))
    trained = load_run(run)
    options = ReadOptions(label_set or trained.label_set, image_root, label_sep, trained.labels)
    manifest = take_split(read_dataset(data, options), split)
    manifest = manifest.rows(np.arange(len(manifest))[:limit])
    extractor = FeatureExtractor(
        trained.make_backbone(),
        engine=engine,
        device=pick_device(device),
        cache_dir=console.cache_dir(cache_dir),
    )
    with console.bar("features") as progress:
        result = score(
            trained,
            manifest,
            extractor,
            split=split,
            inference=inference,
            max_exact_labels=max_exact_labels,
            decoder=Decoder(decode, threshold, top_k, at_least, at_most),
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
    for note in result.notes:
        console.log(f"note: {note}")
    if out is not None:
        write_text(out, evaluation_csv(result))
    typer.echo(evaluation_record(result) if as_json else format_evaluation(result))
