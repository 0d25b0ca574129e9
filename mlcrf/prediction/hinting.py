"""Hints: tags that other sources give an image, as log-odds of its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.checkpoint import Run
from mlcrf.data.hint_tables import Hints
from mlcrf.errors import RunError
from mlcrf.images import Image
from mlcrf.prediction.known import fingerprint
from mlcrf.stores import Stored


@dataclass(frozen=True)
class HintEvidence:
    """Log-odds that hints add to the labels of images.

    Attributes:
        of_photo: by `Image.key`, float32 (L,); nothing is added to other images.
        tables: source and SHA-256 of its table; evidence is equal if these are equal.
    """

    of_photo: dict[str, NDArray[np.float32]] = field(compare=False)
    tables: tuple[tuple[str, str], ...] = ()

    def of(self, images: Sequence[Image]) -> Tensor:
        """Return the log-odds of images (N, L)."""
        nothing = np.zeros_like(next(iter(self.of_photo.values())))
        return torch.from_numpy(np.stack([self.of_photo.get(one.key, nothing) for one in images]))


def match_sources(run: Run, tables: Mapping[str, Path | Stored]) -> dict[str, Path | Stored]:
    """Return the tables by the names that the run knows their sources by.

    A run that was trained with one source takes the only table as that, whatever its name.

    Raises:
        RunError: the run was trained without hints, or does not know a source.
    """
    known = list(run.hints)
    if not known:
        raise RunError(f"{run.path}: was trained without --hints; train with them, or use --known")
    if len(known) == len(tables) == 1:
        [table] = tables.values()
        return {known[0]: table}
    for name in tables:
        if name not in known:
            raise RunError(
                f"{run.path}: was trained with hints of {', '.join(known)}, not of {name!r}; name "
                f"the source: --hints {known[0]}=TABLE"
            )
    return dict(tables)


def weigh_hints(run: Run, hints: Hints, tables: Mapping[str, Path | Stored]) -> HintEvidence:
    """Return what hints add to the labels of images, as far as the run trusts their sources."""
    evidence: dict[str, NDArray[np.float32]] = {}
    for name, rows in hints.items():
        trust = [run.hints[name].get(label, (0.0, 0.0)) for label in run.labels]
        named, unnamed = np.array(trust, dtype=np.float32).T
        for key, said in rows.items():
            own = np.where(said == 1, named, np.where(said == 0, unnamed, 0)).astype(np.float32)
            evidence[key] = evidence.get(key, 0) + own
    prints = tuple((name, fingerprint(table)) for name, table in sorted(tables.items()))
    return HintEvidence(evidence, prints)
