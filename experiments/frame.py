"""Shared code of the experiments: options, photos, resumed runs, stored figures.

A question has a folder with `run.py`, started as `python -m experiments.FOLDER.run` from the
project's root, `results.json` that it writes, and `README.md` whose tables `experiments.pages`
makes of that file.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import STATE, Run, load_run
from mlcrf.choices import Finetune, Schedule
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.evaluation import Evaluation, evaluate
from mlcrf.images import as_image
from mlcrf.labels import UNKNOWN
from mlcrf.training.extraction import Environment
from mlcrf.training.progress import without_gradients
from mlcrf.training.run import train

ROOT = Path(__file__).parent.parent
QUICK: dict[str, Any] = {"penalties": (0.3,), "pairwise_penalties": (0.01,), "steps": 20}
AS_FITTED: dict[str, Any] = {"schedule": Schedule.JOINT, "structure_weights": (1.0,)}
QUICK_PHOTOS = {Split.TRAIN: 300, Split.VALIDATION: 100, Split.TEST: 200}
SHIFTS = {
    "greyscale": lambda photo: photo.convert("L").convert("RGB"),
    "64 px": lambda photo: photo.convert("RGB").resize((64, 64)),
}

Rows = list[dict[str, Any]]


def read_options(
    doc: str | None, folder: str, file: str = "results.json", **more: dict[str, Any]
) -> argparse.Namespace:
    """The options of an experiment on photos: data, runs, out, quick, and `more` by name.

    Of the bootstrap of differences, `resamples` says how often.
    With `--quick` runs and figures go to `runs/quick`, where they replace nothing.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    more = {"data": {"type": Path, "default": Path("data/mirflickr25k")}} | more
    parser.add_argument("--runs", type=Path, help="folder of runs; runs, or runs/quick")
    parser.add_argument("--out", type=Path, help="file of the figures")
    parser.add_argument("--quick", action="store_true", help="600 photos, few steps")
    for name, settings in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.resamples = 50 if quick else 1000
    arguments.runs = arguments.runs or (Path("runs/quick") if quick else Path("runs"))
    kept = ROOT / "experiments" / folder / file
    name = file.replace("results", folder)
    arguments.out = arguments.out or (arguments.runs / name if quick else kept)
    return arguments


def photos(arguments: argparse.Namespace, label_set: int | None = None) -> Manifest:
    """MIRFLICKR with its splits, 24 labels unless said.

    With `--quick` a few photos of each split, and 14 labels, whose label sets are quickly summed.
    """
    chosen = label_set or (14 if arguments.quick else 24)
    data = split_manifest(read_dataset(arguments.data, ReadOptions(chosen)), seed=0)
    return first_photos(data, QUICK_PHOTOS) if arguments.quick else data


def first_photos(data: Manifest, counts: dict[Split, int]) -> Manifest:
    """The first so many photos of each split, in their order."""
    splits = np.array(data.splits)
    wanted = [np.flatnonzero(splits == split)[:count] for split, count in counts.items()]
    return data.rows(np.sort(np.concatenate(wanted)))


def trained(data: Manifest, out: Path, settings: TrainSettings, *, as_fitted: bool = True) -> Run:
    """The run at `out`: as it is there, or trained to its end. Needs the data's splits made.

    Unless the settings say otherwise the network is left as published, and the CRF is learned
    jointly and used as it was fitted; with `as_fitted` False it is learned as `mlcrf train` does.
    """
    if settings.finetune is Finetune.AUTO:
        settings = settings.with_finetune(Finetune.NONE)
    if as_fitted and settings.schedule is Schedule.AUTO:
        settings = settings.model_copy(update=AS_FITTED)
    if not (out / "metrics.json").exists():
        begun = (out / STATE).exists()
        train(
            data,
            out,
            settings,
            Environment(cache_dir=cache_dir(None)),
            resume=begun,
            overwrite=out.exists() and not begun,
            log=without_gradients(partial(print, flush=True)),
        )
    return load_run(out)


def default_run(arguments: argparse.Namespace, data: Manifest) -> Run:
    """A run with default settings, learned jointly, as `mir24` among the runs."""
    settings = TrainSettings(**(QUICK if arguments.quick else {}))
    return trained(data, arguments.runs / f"mir{len(data.labels)}", settings)


def scored(arguments: argparse.Namespace, run: Run, data: Manifest) -> Evaluation:
    """A run's measures on the test split of its data."""
    test, extractor = data.part(Split.TEST), extractor_of(run)
    return evaluate(run, test, extractor, split="test", resamples=arguments.resamples)


def record_of(run: Run) -> dict[str, Any]:
    """Return the record that training wrote: images, fits, seconds."""
    record: dict[str, Any] = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    return record


def extractor_of(run: Run) -> FeatureSource:
    """A run's network, with features kept from earlier."""
    return make_source(run.defer_backbone(), cache_dir=cache_dir(None))


def features_of(run: Run, data: Manifest) -> Tensor:
    """Features of the photos, (N, D)."""
    return torch.from_numpy(extractor_of(run).matrix(data.images))


def some_test(arguments: argparse.Namespace, run: Run, data: Manifest) -> Manifest:
    """The first `--photos` test photos: those of `--test`, a table, where the data are split so."""
    if getattr(arguments, "test", None) is None:
        test = data.part(Split.TEST)
    else:
        how = ReadOptions(labels=run.labels, run_features=run.backbone_spec.features)
        test = read_dataset(arguments.test, how)
    return test.rows(np.arange(len(test))[: arguments.photos])


def partly_known(targets: Tensor, share: float) -> Tensor:
    """The targets (N, L), with a random share of them known and the others -1."""
    shown = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)) < share
    return torch.where(shown, targets, UNKNOWN)


def shifted(run: Run, test: Manifest, change: Callable[[Picture.Image], Picture.Image]) -> Tensor:
    """Features of changed photos; see `SHIFTS`."""
    places = []
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(test.images):
            assert image.path is not None
            place = Path(folder) / f"{number}.png"
            with Picture.open(image.path) as photo:
                change(photo).save(place)
            places.append(as_image(place))
        return torch.from_numpy(extractor_of(run).matrix(places))


def earlier(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures that are kept already; none without a file."""
    if not arguments.out.exists():
        return {}
    figures: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))
    return figures


def keep(arguments: argparse.Namespace, rows: Rows, **more: Any) -> None:
    """Write the figures so far, with what they were made on."""
    about = {
        "mlcrf": metadata.version("mlcrf"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "quick": arguments.quick,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": about, "rows": rows, **more}, indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float) -> str:
    """A share as a percentage with two digits."""
    return f"{100 * value:.2f}"


def gain(interval: Sequence[float], factor: float = 100) -> str:
    """A difference with its 95 % interval."""
    mean, low, high = (factor * value for value in interval)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def commit() -> str:
    """The commit that is checked out, with a plus sign if the package has changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "mlcrf", "experiments/*.py", "experiments/*/*.py")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
