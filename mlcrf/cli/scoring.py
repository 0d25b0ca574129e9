"""What `evaluate` and `report` share: which run is asked about which images, and how."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import EngineName, InferenceName
from mlcrf.cli import console

if TYPE_CHECKING:  # heavy
    from mlcrf.backbones.features import FeatureExtractor
    from mlcrf.checkpoint import Run
    from mlcrf.data.manifest import Manifest

Data = Annotated[
    str, typer.Argument(help="Table or folder of images and labels, or s3://... of a table.")
]
Split = Annotated[str, typer.Option(help="train, validation, test or all.")]
LabelSet = Annotated[
    int | None, typer.Option(help="MIRFLICKR only: 24, 14 or 38; that of the run by default.")
]
Inference = Annotated[
    InferenceName | None, typer.Option(help="Another one than the run was trained for.")
]
MaxExactLabels = Annotated[
    int | None,
    typer.Option(min=1, max=40, help="Up to how many labels exact inference is used."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Score the first so many images alone.")]
Resamples = Annotated[int, typer.Option(min=1, help="Of the bootstrap.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.")]


def load(
    run: Path,
    data: str,
    *,
    split: str,
    label_set: int | None,
    image_root: str | None,
    label_sep: str | None,
    limit: int | None,
) -> "tuple[Run, Manifest]":
    """The run, and the images that it is asked about."""
    import numpy as np

    from mlcrf.checkpoint import load_run
    from mlcrf.data.readers.choosing import read_dataset
    from mlcrf.data.splits import take_split

    trained = load_run(run)
    chosen = label_set or trained.label_set
    options = console.read_options(chosen, image_root, label_sep, trained.labels)
    manifest = take_split(read_dataset(console.parse_data(data), options), split)
    return trained, manifest.rows(np.arange(len(manifest))[:limit])


def make_extractor(
    run: "Run", *, engine: EngineName, device: str, cache_dir: Path | None
) -> "FeatureExtractor":
    """The network of a run as the options want it."""
    from mlcrf.backbones.engines import pick_device
    from mlcrf.backbones.features import FeatureExtractor

    return FeatureExtractor(
        run.make_backbone(),
        engine=engine,
        device=pick_device(device),
        cache_dir=console.cache_dir(cache_dir),
    )
