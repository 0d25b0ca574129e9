"""Log-odds of photos by heads that have not seen them, to fit what is between labels on.

Of photos to learn from these are out of fold, of new photos those of the head of all folds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.choices import EngineName
from mlcrf.cli.options import cache_dir
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.objectives import independent_loss
from mlcrf.processes import ALONE
from mlcrf.rules import Rules
from mlcrf.training.examples import Examples
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.members import fit_members
from mlcrf.training.plan import make_plan
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.stacking import score_by_baselines
from mlcrf.training.stages import Stages

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A kind of head: its network, engine and settings of training."""

    backbone: str
    engine: EngineName = EngineName.AUTO
    settings: tuple[tuple[str, Any], ...] = ()

    def train_settings(self) -> TrainSettings:
        """The settings of `mlcrf train`."""
        return TrainSettings(backbone=self.backbone, **dict(self.settings))


@dataclass(frozen=True)
class Photos:
    """Log-odds float64 (N, L), principal components of features (N, P), targets int64 (N, L)."""

    odds: Tensor
    components: Tensor
    targets: Tensor

    def rows(self, wanted: Tensor) -> "Photos":
        """Photos that are chosen, bool (N,)."""
        return Photos(self.odds[wanted], self.components[wanted], self.targets[wanted])

    def batches(self, size: int = 1000) -> Iterator["Photos"]:
        """The photos in parts of so many, in order."""
        parts = (one.split(size) for one in (self.odds, self.components, self.targets))
        return (Photos(*part) for part in zip(*parts, strict=True))

    def __len__(self) -> int:
        return len(self.odds)


def score_photos(
    head: Head, data: Manifest, components: int, stages: Path | None
) -> dict[str, Photos]:
    """Return the photos to learn from, `seen`, and those of the test split, `test`.

    Args:
        components: P.
        stages: file in which fitted members of a head with dropout are kept.
    """
    backbone = make_backbone(find_spec(head.backbone))
    extractor = FeatureExtractor(backbone, engine=head.engine, cache_dir=cache_dir(None))
    is_test = np.array(data.splits) == Split.TEST
    features, new = (
        extractor.matrix(data.rows(np.flatnonzero(wanted)).images) for wanted in (~is_test, is_test)
    )
    targets = data.targets[~is_test]
    settings, examples = head.train_settings(), Examples(features, targets)
    if settings.dropout:
        seen_odds, new_odds = _by_members(examples, new, settings, data.labels, stages)
    else:
        seen_odds, new_odds = _by_linear_head(examples, new, settings)
    seen_parts, new_parts = _components(features, new, components)
    found = {
        "seen": (seen_odds, seen_parts, targets),
        "test": (new_odds, new_parts, data.targets[is_test]),
    }
    return {
        name: Photos(
            torch.from_numpy(odds.astype(np.float64)),
            torch.from_numpy(parts.astype(np.float64)),
            torch.from_numpy(truth.astype(np.int64)),
        )
        for name, (odds, parts, truth) in found.items()
    }


def _by_members(
    examples: Examples, new: Floats, settings: TrainSettings, labels: LabelSpace, kept: Path | None
) -> tuple[Floats, Floats]:
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    plan = make_plan(settings, labels, no_edges(), Rules())
    stages = Stages(kept, settings.model_dump_json())
    members = fit_members(examples, plan, stages, "all", lambda event: None)
    return members.out_of_fold_logits, members.log_odds(new)


def _by_linear_head(
    examples: Examples, new: Floats, settings: TrainSettings
) -> tuple[Floats, Floats]:
    (penalty,) = settings.penalties
    space = FeatureSpace(examples.features, examples.targets)
    start = LabelCrf(examples.features.shape[1], examples.targets.shape[1], edges=no_edges())
    model, _ = fit(space, start, independent_loss, Penalty(penalty, 0.0), tolerance=1e-5)
    with torch.no_grad():
        odds: Floats = space.to_features(model).unary(torch.from_numpy(new)).numpy()
    return score_by_baselines(examples, settings, ALONE), odds


def _components(features: Floats, new: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the first principal components of standardised features, of variance 1."""
    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 0, spread, 1)
    rows, others = ((one - mean) / spread for one in (features, new))
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    axes = vectors[:, -count:] / np.sqrt(np.maximum(values[-count:], 1e-6))
    return rows @ axes, others @ axes
