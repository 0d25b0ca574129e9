"""`mlcrf train`: a data set in, a run directory out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import (
    EngineName,
    Finetune,
    InferenceName,
    ObjectiveName,
    Pairwise,
    Schedule,
    Structure,
)
from mlcrf.cli import console, options

if TYPE_CHECKING:
    from mlcrf.processes import Processes
    from mlcrf.training.progress import Log


def train(
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Table or folder of images and labels, or s3://... of a table.",
            show_default=False,
        ),
    ] = None,
    from_review: Annotated[
        str | None,
        typer.Option(
            metavar="DB",
            help="Train on the answers in this database of `mlcrf review`; DATA is then the "
            "folder of the photos, or nothing if it has not moved.",
        ),
    ] = None,
    label_set: options.LabelSet = 24,
    image_root: options.ImageRoot = None,
    label_sep: options.LabelSep = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file of the labels to expect, one a line.")
    ] = None,
    implications: Annotated[
        Path | None, typer.Option(help="File of rules between labels, `child,parent` a line.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="lite0, lite1, lite2, tiny or a name of timm's; lite0+lite2 is both."),
    ] = None,
    finetune: Annotated[Finetune | None, typer.Option(help="`all` trains the network too.")] = None,
    structure: Annotated[
        Structure | None,
        typer.Option(help="Which label pairs are coupled; `latent`: a mixture over scenes."),
    ] = None,
    album: Annotated[
        bool,
        typer.Option(
            "--album",
            help="With --structure latent: learn how scenes follow each other in folders.",
        ),
    ] = False,
    pairwise: Annotated[
        Pairwise | None, typer.Option(help="`conditional` couplings vary by image.")
    ] = None,
    objective: Annotated[ObjectiveName | None, typer.Option(help="What is minimised.")] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(help="`piecewise` learns couplings on the baseline's unaries."),
    ] = None,
    pos_weight: Annotated[
        float | None,
        typer.Option(help="How much a present label counts in the independent objective."),
    ] = None,
    inference: Annotated[
        InferenceName | None, typer.Option(help="What the run will be decoded with.")
    ] = None,
    max_exact_labels: Annotated[
        int | None, typer.Option(help="Up to how many labels exact inference is used.")
    ] = None,
    hidden_units: Annotated[
        int | None, typer.Option(help="Hidden units of the head; 0 is linear, the default.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of --finetune all, and of a head with dropout.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, key=value; may be repeated.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a stopped run, or begin it.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
    device: options.Device = "auto",
    engine: options.Engine = EngineName.AUTO,
    cache_dir: options.CacheDir = None,
    in_memory: Annotated[
        float,
        typer.Option(
            min=0,
            help="Most GB of features to hold; more are mapped from files in the cache folder.",
        ),
    ] = 4.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every gradient.")] = False,
    as_json: options.Json = False,
) -> None:
    """Learn labels and their couplings; the independent baseline is always fitted beside them.

    On several processes, GPUs or machines: `torchrun --nproc-per-node N -m mlcrf train ...`.
    """
    console.quiet()
    from mlcrf.backbones.engines import pick_device
    from mlcrf.config import make_settings
    from mlcrf.data.implications import load_implications, with_implications
    from mlcrf.data.readers import read_dataset
    from mlcrf.labels import load_labels
    from mlcrf.processes import joined, speaks
    from mlcrf.reports.card import save_card
    from mlcrf.reports.tables import format_training, training_record
    from mlcrf.training.extraction import Environment
    from mlcrf.training.run import train as run_training

    settings = make_settings(
        config,
        tuple(set_ or ()),
        backbone=backbone,
        finetune=finetune,
        structure=structure,
        albums=album or None,
        pairwise=pairwise,
        objective=objective,
        schedule=schedule,
        pos_weight=pos_weight,
        inference=inference,
        max_exact_labels=max_exact_labels,
        hidden_units=hidden_units,
        epochs=epochs,
        seed=seed,
    )
    asked_device = pick_device(device)
    space = None if labels is None else load_labels(labels)
    if from_review is not None:
        console.require_extra("review", "sqlalchemy")
        from mlcrf.review.review_reader import read_review

        manifest = read_review(from_review, [Path(data)] if data else [], labels=space)
    elif data is not None:
        reading = options.read_options(label_set, image_root, label_sep, space)
        manifest = read_dataset(options.parse_data(data), reading)
    else:
        raise typer.BadParameter("missing argument DATA, or --from-review DB")
    if implications is not None:
        given = manifest.implications
        rules = load_implications(implications, manifest.labels, given=given)
        manifest = with_implications(manifest, rules)
    try:
        with joined(asked_device) as (processes, own_device):
            environment = Environment(
                own_device,
                engine,
                options.cache_dir(cache_dir),
                in_memory=int(in_memory * 2**30),
                processes=processes,
            )
            with console.bar("features", hidden=not processes.is_first) as progress:
                report = run_training(
                    manifest,
                    out,
                    settings,
                    environment,
                    resume=resume,
                    overwrite=overwrite,
                    log=_log(processes, verbose=verbose),
                    progress=progress,
                )
            if processes.is_first:
                save_card(report)
            processes.barrier()
    except (KeyboardInterrupt, SystemExit):
        if speaks():
            console.log(f"stopped; the same command with --resume goes on from what {out} holds")
        raise
    if processes.is_first:
        for note in report.notes:
            console.log(f"note: {note}")
        typer.echo(training_record(report) if as_json else format_training(report))


def _log(processes: "Processes", *, verbose: bool) -> "Log":
    """Return the log of this process; of several, the first one speaks."""
    from mlcrf.training.progress import without_gradients

    if not processes.is_first:
        return lambda event: None
    return (lambda event: console.log(str(event))) if verbose else without_gradients(console.log)
