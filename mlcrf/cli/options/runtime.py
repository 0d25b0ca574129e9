"""Options of how a network is run: device, engine, cache."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import EngineName
from mlcrf.cli.options.grouping import RUNTIME

if TYPE_CHECKING:
    from mlcrf.backbones.feature_source import FeatureSource
    from mlcrf.checkpoint import Run

Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, mps and so on.", rich_help_panel=RUNTIME)
]
Engine = Annotated[
    EngineName,
    typer.Option(
        help="Engine that runs a frozen network; auto: the fastest that computes torch's features.",
        rich_help_panel=RUNTIME,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for features; $MLCRF_CACHE or ~/.cache/mlcrf by default.",
        rich_help_panel=RUNTIME,
    ),
]


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, engine and cache of the network."""

    device: Device = "auto"
    engine: Engine = EngineName.AUTO
    cache_dir: CacheDir = None

    @property
    def cache(self) -> Path:
        return cache_dir(self.cache_dir)

    def make_extractor(self, run: "Run") -> "FeatureSource":
        """Make the source of a run's features."""
        from mlcrf.backbones.engines import pick_device
        from mlcrf.backbones.sources import make_source

        return make_source(
            run.defer_backbone(),
            engine=self.engine,
            device=pick_device(self.device),
            cache_dir=self.cache,
        )


def cache_dir(given: Path | None) -> Path:
    """Return the given folder for features, $MLCRF_CACHE, or the user's cache folder."""
    if given is not None:
        return given
    if "MLCRF_CACHE" in os.environ:
        return Path(os.environ["MLCRF_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlcrf"
