"""`mlcrf report`: the scores of a run as one web page."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName
from mlcrf.cli import console, scoring


def report(
    run: console.RunDirectory,
    data: scoring.Data,
    out: Annotated[Path, typer.Option(help="Page to write (.html).")],
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
    images: Annotated[
        int,
        typer.Option(
            min=0, max=200, help="Maximum number of images in each of the three galleries."
        ),
    ] = 12,
    thumbnail_px: Annotated[
        int, typer.Option(min=32, max=1024, help="Longer side of the images in the page.")
    ] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
) -> None:
    """Write one self-contained page: measures, labels, curves, couplings, images to look at.

    The page contains what `evaluate` prints, and small copies of images of the data with their
    labels and file names. It loads nothing from elsewhere.
    """
    console.quiet()
    from mlcrf.atomic import require_ending
    from mlcrf.decoding import Decoder
    from mlcrf.errors import MlcrfError
    from mlcrf.evaluation import answer, score
    from mlcrf.reports.webpage import Gallery, save_report

    require_ending(out, (".html", ".htm"))
    if out.exists() and not overwrite:
        raise MlcrfError(f"{out}: exists already; choose another --out or --overwrite")
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
        answers = answer(
            trained,
            manifest,
            extractor,
            inference=inference,
            max_exact_labels=max_exact_labels,
            decoder=Decoder(decode, threshold, top_k, at_least, at_most),
            with_surprise=True,
            progress=progress,
        )
    result = score(trained, answers, split=split, resamples=resamples, seed=seed)
    for note in result.notes:
        console.note(note)
    save_report(out, trained, answers, result, Gallery(images, thumbnail_px))
    typer.echo(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
