"""`mlcrf features`: a network's features of images, as a table to use anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import Oddity
from mlcrf.cli import console, options
from mlcrf.cli.options import ReadingOptions, RuntimeOptions, grouped
from mlcrf.cli.sources import ImageSource, require_there
from mlcrf.hints import counted

if TYPE_CHECKING:
    from mlcrf.backbones.deferred import DeferredBackbone
    from mlcrf.backbones.registry import Backbone
    from mlcrf.data.manifest import Manifest

_SHOWN = 10  # images that cannot be read, of those named


@grouped
def features(
    images: options.Images,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .safetensors or .csv.")],
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Network, as for `mlcrf train --backbone` (default: lite0).",
            rich_help_panel="Model",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="File of weights, as for `mlcrf train --weights`.", rich_help_panel="Model"
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4,
            help="As for `mlcrf train --views` (default: 1).",
            rich_help_panel="Model",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Run whose network to use, as it was trained, in place of a network by name.",
            rich_help_panel="Model",
        ),
    ] = None,
    label_set: options.LabelSet = 24,
    limit: options.Limit = None,
    null: options.Null = False,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Write a network's features of images as a table, one row per image.

    IMAGES may also be one data set that `mlcrf train` reads: its labels and splits become columns,
    so that the table can be trained on. Images that cannot be read are reported and left out.
    """
    console.quiet()
    require_there(images)
    import numpy as np

    from mlcrf import atomic
    from mlcrf.backbones.engines import pick_device
    from mlcrf.backbones.sources import make_source
    from mlcrf.data.feature_files import FEATURE_SUFFIXES, KnownOfImages, save_features
    from mlcrf.errors import DataError, MlcrfError
    from mlcrf.reports.text import to_json

    atomic.require_ending(out, FEATURE_SUFFIXES)
    if out.exists() and not overwrite:
        raise MlcrfError(f"{out}: exists already; choose another --out or --overwrite")
    manifest = _read_labelled(images, reading, label_set)
    if manifest is None:
        listed = ImageSource.read(images, null=null).list(limit)
        found = tuple(listed)
        if not found:
            raise DataError(f"{', '.join(images)}: {listed.left_out.explain_none()}")
    else:
        found = manifest.images[:limit]
    network = _find_network(model, backbone, weights, views)
    spec = network.spec
    extractor = make_source(
        network,
        engine=runtime.engine,
        device=pick_device(runtime.device),
        cache_dir=runtime.cache,
    )
    with console.bar("features") as progress:
        rows, matrix, errors = extractor.readable(found, progress=progress)
    for error in errors[:_SHOWN]:
        console.log(f"error: {error}")
    names = [found[row].name for row in rows]
    known = KnownOfImages(names, (), np.zeros((len(rows), 0), np.int8))
    if manifest is not None:
        part = manifest.rows(np.array(rows))
        known = KnownOfImages(names, part.labels.names, part.targets, part.splits)
    save_features(out, matrix, known)
    record = {
        "out": str(out),
        "backbone": spec.name,
        "views": spec.views,
        "images": len(rows),
        "features": matrix.shape[1],
        "labels": len(known.labels),
        "failed": len(errors),
    }
    failed = f", {len(errors)} with errors" if errors else ""
    text = (
        f"{counted(len(rows), 'image')}, "
        f"{counted(matrix.shape[1], 'feature')} of {spec.title}{failed}: {out}"
    )
    typer.echo(to_json(record) if as_json else text)
    if strict and errors:
        raise typer.Exit(1)


def _find_network(
    model: Path | None, backbone: str | None, weights: str | None, views: int | None
) -> "Backbone | DeferredBackbone":
    from mlcrf.backbones.registry import find_spec, make_backbone
    from mlcrf.errors import MlcrfError

    if model is None:
        return make_backbone(find_spec(backbone or "lite0", weights, views=views or 1))
    for name, given in (("backbone", backbone), ("weights", weights), ("views", views)):
        if given is not None:
            raise MlcrfError(f"--model {model} has its own network; leave out --{name}, or --model")
    from mlcrf.checkpoint import load_run

    run = load_run(model)
    if run.backbone_spec.features:
        raise MlcrfError(
            f"{model}: learned from a table of numbers, and has no network; give another --model"
        )
    return run.defer_backbone()


def _read_labelled(images: list[str], reading: ReadingOptions, label_set: int) -> "Manifest | None":
    """Return the only place as a data set with labels, or None if it is one of images alone."""
    from mlcrf.cli.mistakes import refuse_run
    from mlcrf.data.readers import READERS, read_dataset
    from mlcrf.data.table_files import TABLE_SUFFIXES
    from mlcrf.errors import MlcrfError

    place = options.parse_data(images[0])
    is_table = place.suffix.lower() in TABLE_SUFFIXES
    detected = isinstance(place, Path) and any(one.detects(place) for one in READERS)
    if len(images) > 1 or not (is_table or detected):
        return None
    refuse_run(images[0], "images", "Name images, or data that `mlcrf train` reads.")
    manifest = read_dataset(place, reading.make(label_set, accept=tuple(Oddity)))
    if manifest.feature_names:
        raise MlcrfError(f"{place} is a table of numbers already; expected images")
    options.show_reading(manifest)
    if len(manifest.rules):
        console.note("rules between labels are not kept in the table; give `train` --rules")
    return manifest
