"""Train the network itself, head and couplings on top of it, end to end."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.registry import Backbone
from mlcrf.config import TrainSettings
from mlcrf.datasets.images import load_pixels
from mlcrf.datasets.manifest import Manifest
from mlcrf.errors import DataError, PotentialsError, RunError
from mlcrf.model import LabelCrf
from mlcrf.training.coordinates import Objective
from mlcrf.training.stages import Result, Stages

_KEEP_BYTES = 2**30  # decoded pictures up to this size stay in memory
_STAGE = "finetune"


def finetune(
    backbone: Backbone,
    train: Manifest,
    validation: Manifest,
    objective: Objective,
    settings: TrainSettings,
    start: LabelCrf,
    *,
    device: torch.device,
    stages: Stages,
    log: Callable[[str], None],
) -> Result:
    """Minimise the objective over network, head and couplings with AdamW.

    The learning rate rises over the first tenth of the steps and falls to zero by a cosine; a
    picture is flipped left to right half of the time. Each epoch is a stage: a run that is
    stopped and resumed draws the same batches and ends with the same bits.

    Args:
        start: head and couplings to begin with; not changed.

    Returns:
        `best`: weights of the network after the epoch with the lowest validation loss;
        `last`: after the last epoch; `losses`: by epoch training and validation loss.

    Raises:
        DataError: a picture cannot be read.
        RunError: loss, gradient or weights are not finite; what earlier epochs left stays.
    """
    batches = _Batches(train, settings, backbone.spec.size_px)
    checks = _Batches(validation, settings, backbone.spec.size_px)
    backbone.to(device).to(memory_format=torch.channels_last)
    head = start.clone().to(device)
    modules = torch.nn.ModuleDict({"backbone": backbone, "head": head})
    optimiser = torch.optim.AdamW(
        modules.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    losses: list[tuple[float, float]] = []
    best: dict[str, Tensor] = _weights(backbone)
    begun = stages.find(_STAGE)
    if begun is not None:
        modules.load_state_dict(begun["modules"])
        optimiser.load_state_dict(begun["optimiser"])
        schedule.load_state_dict(begun["schedule"])
        losses, best = begun["losses"], begun["best"]
    model = _Network(backbone, head, objective, device)
    for epoch in range(len(losses), settings.epochs):
        modules.train()
        total = 0.0
        for pixels, targets in batches.shuffled(epoch):
            loss = model.loss(pixels, targets)
            _step(loss, optimiser, schedule)
            total += float(loss.detach()) * len(pixels) / len(train)
        modules.eval()
        with torch.no_grad():
            checked = sum(
                float(model.loss(pixels, targets)) * len(pixels) / len(validation)
                for pixels, targets in checks.in_order()
            )
        if not losses or checked < min(loss for _, loss in losses):
            best = _weights(backbone)
        losses.append((total, checked))
        log(
            f"finetune: epoch {epoch + 1} of {settings.epochs}, loss {total:.4f}, "
            f"validation {checked:.4f}"
        )
        stages.keep(
            _STAGE,
            {
                "modules": modules.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "losses": losses,
                "best": best,
            },
        )
    backbone.cpu()
    return {"best": best, "last": _weights(backbone), "losses": losses}


@dataclass(frozen=True)
class _Network:
    """Pixels to loss."""

    backbone: Backbone
    head: LabelCrf
    objective: Objective
    device: torch.device

    def loss(self, pixels: NDArray[np.uint8], targets: NDArray[np.int8]) -> Tensor:
        known = torch.from_numpy(targets.astype(np.int64)).to(self.device)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            features = self.backbone(torch.from_numpy(pixels).to(self.device))
        try:
            loss = self.objective(self.head(features.float()), (known == 1).float(), known >= 0)
        except PotentialsError as error:
            raise RunError(f"finetune: diverged ({error}); lower --set learning_rate") from error
        if not bool(torch.isfinite(loss)):
            raise RunError(
                f"finetune: the loss is {float(loss.detach())}; lower --set learning_rate"
            )
        return loss


def _step(
    loss: Tensor, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    if not bool(torch.isfinite(norm)):
        raise RunError("finetune: the gradient is not finite; lower --set learning_rate")
    optimiser.step()
    schedule.step()


def _weights(backbone: Backbone) -> dict[str, Tensor]:
    return {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in backbone.state_dict().items()
    }


class _Batches:
    """Pictures and targets in batches; decoded once if they fit in memory."""

    def __init__(self, manifest: Manifest, settings: TrainSettings, size_px: int) -> None:
        self._manifest, self._settings, self._size_px = manifest, settings, size_px
        fits = len(manifest) * size_px * size_px * 3 <= _KEEP_BYTES
        self._kept = self._decode(manifest.images) if fits else None

    def __len__(self) -> int:
        return math.ceil(len(self._manifest) / self._settings.batch_size)

    def in_order(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
        """Every picture once, as it is."""
        return self._batches(np.arange(len(self._manifest)))

    def shuffled(self, epoch: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
        """Every picture once, in an order and with flips that depend on seed and epoch alone."""
        rng = np.random.default_rng((self._settings.seed, epoch))
        for pixels, targets in self._batches(rng.permutation(len(self._manifest))):
            flip = rng.random(len(pixels)) < 0.5
            mirrored = np.where(flip[:, None, None, None], pixels[:, :, ::-1], pixels)
            yield np.ascontiguousarray(mirrored), targets

    def _batches(
        self, order: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
        for start in range(0, len(order), self._settings.batch_size):
            rows = order[start : start + self._settings.batch_size]
            if self._kept is None:
                pixels = self._decode([self._manifest.images[row] for row in rows])
            else:
                pixels = self._kept[rows]
            yield pixels, self._manifest.targets[rows]

    def _decode(self, paths: "tuple[Path, ...] | list[Path]") -> NDArray[np.uint8]:
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(self._load, paths)))

    def _load(self, path: Path) -> NDArray[np.uint8]:
        try:
            return load_pixels(path, self._size_px)
        except DataError as error:
            raise DataError(f"{error}; remove it from the table") from error
