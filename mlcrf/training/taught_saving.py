"""Write runs made by teaching."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mlcrf import atomic
from mlcrf.checkpoint import SPLITS, STATE, load_splits, save_run
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers.table import save_manifest
from mlcrf.errors import RunError
from mlcrf.labels import UNKNOWN
from mlcrf.shipped_models import CONFIG
from mlcrf.training.extending import TaughtReport


def save_taught(report: TaughtReport, out: Path, *, overwrite: bool = False) -> TaughtReport:
    """Write the run directory, as a whole or not at all; the model card comes after.

    Returns:
        The report with the saved run.

    Raises:
        RunError: the directory exists, and is no run or `overwrite` is not given.
        MlcrfError: it cannot be written.
    """
    require_free(out, overwrite=overwrite)
    with atomic.folder_beside(out) as place:
        run = save_run(replace(report.run, path=place / "new"))
        save_manifest(run.path / SPLITS, _splits(report))
        text = json.dumps(report.record(), indent=2) + "\n"
        atomic.write_text(run.path / "metrics.json", text)
        _replace(out, run.path, place / "old")
    return replace(report, run=replace(run, path=out))


def require_free(out: Path, *, overwrite: bool) -> None:
    """Check the place of a new run before the work starts.

    Raises:
        RunError: it exists, and is no run or `overwrite` is not given.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    is_run = (out / STATE).exists() or (out / CONFIG).exists()
    if not is_run or not overwrite:
        ways = "--overwrite it, or" if is_run else "it is not a run, so"
        raise RunError(f"{out}: exists already; {ways} choose another --out")


def _replace(out: Path, new: Path, old: Path) -> None:
    """Put a new folder in the place of one that is moved away; leave the latter if that fails."""
    is_there = out.exists()
    if is_there:
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if is_there:
            old.rename(out)
        raise


def _splits(report: TaughtReport) -> Manifest:
    """Return the images that were learned from, with those of the base run."""
    data, labels, base = report.data, report.run.labels, report.base
    columns = [data.names.index(name) for name in labels]
    answered = (data.answers != UNKNOWN).any(1).nonzero().squeeze(1).tolist()
    targets = data.answers[answered][:, columns].to(torch.int8).numpy()
    images = [data.images[row] for row in answered]
    splits = [Split.TRAIN] * len(images)
    if base is not None and (base.path / SPLITS).exists():
        before = load_splits(base)
        place = {image.key: row for row, image in enumerate(images)}
        padded = np.full((len(before), len(labels)), UNKNOWN, dtype=np.int8)
        for at, column in enumerate(columns):
            if column < len(base.labels):
                padded[:, at] = before.targets[:, column]
        others = []
        for row, image in enumerate(before.images):
            ours_at = place.get(image.key)
            if ours_at is not None:
                ours = targets[ours_at]
                ours[ours == UNKNOWN] = padded[row][ours == UNKNOWN]
            else:
                others.append(row)
        images += [before.images[row] for row in others]
        targets = np.concatenate([targets, padded[others]])
        splits += [(before.splits or (Split.TRAIN,) * len(before))[row] for row in others]
    return Manifest(tuple(images), targets, labels, tuple(splits), report.run.data)
