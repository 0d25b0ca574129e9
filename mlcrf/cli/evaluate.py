"""`mlcrf evaluate`: how good a run is, beside the independent baseline."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName
from mlcrf.cli import console, scoring


def evaluate(
    run: console.RunDirectory,
    data: scoring.Data,
    split: scoring.Split = "test",
    label_set: scoring.LabelSet = None,
    image_root: console.ImageRoot = None,
    label_sep: console.LabelSep = None,
    inference: scoring.Inference = None,
    max_exact_labels: scoring.MaxExactLabels = None,
    decode: console.Decode = Decision.THRESHOLD,
    threshold: console.Threshold = None,
    top_k: console.TopK = None,
    at_least: console.AtLeast = 0,
    at_most: console.AtMost = None,
    limit: scoring.Limit = None,
    resamples: scoring.Resamples = 1000,
    seed: scoring.Seed = 0,
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
    from mlcrf.atomic import require_ending, write_text
    from mlcrf.decoding import Decoder
    from mlcrf.evaluation import evaluate as score
    from mlcrf.reports.tables import evaluation_csv, evaluation_record, format_evaluation

    if out is not None:
        require_ending(out, (".csv",))
    trained, manifest = scoring.load(
        run,
        data,
        split=split,
        label_set=label_set,
        image_root=image_root,
        label_sep=label_sep,
        limit=limit,
    )
    extractor = scoring.make_extractor(trained, engine=engine, device=device, cache_dir=cache_dir)
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
