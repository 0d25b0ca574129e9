"""Fine-tune network, head and couplings end to end."""

import math
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from mlcrf.backbones.registry import Backbone, BackboneSpec
from mlcrf.choices import Precision
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.images.pixels import load_pixels
from mlcrf.model import LabelCrf
from mlcrf.objectives import Objective, from_image
from mlcrf.processes import Processes
from mlcrf.training.extraction import Environment
from mlcrf.training.plan import Plan, make_minimiser
from mlcrf.training.progress import EpochFinished, Log, TaskProgress
from mlcrf.training.stages import Result, Stages
from mlcrf.training.stepping import (
    FINETUNE,
    Part,
    Stepper,
    Training,
    copy_weights,
    share_batch_norm,
)

_KEEP_BYTES = 2**30  # largest size of decoded images kept in memory


def finetune(
    backbone: Backbone,
    train: Manifest,
    validation: Manifest,
    plan: Plan,
    stages: Stages,
    log: Log,
    environment: Environment = Environment(),
) -> Result:
    """Minimise the plan's objective over network, head and couplings with AdamW.

    The learning rate rises over the first tenth of the steps and falls to zero by a cosine.
    Images are flipped left to right half of the time, and cropped if `min_crop` is below 1, by
    torchvision's transforms. Each epoch is a stage: a run that is stopped and resumed draws the
    same batches and ends with the same bits. Several processes share each batch, and batch
    normalisation sees the whole batch, so that steps equal those of one process up to rounding.

    Returns:
        `best`: weights of the network after the epoch with the lowest validation loss;
        `last`: after the last epoch; `losses`: by epoch training and validation loss.

    Raises:
        DataError: an image cannot be read.
        RunError: loss, gradient or weights are not finite; the state of earlier epochs is kept.
        MlcrfError: another process has ended.
    """
    settings, device, processes = plan.settings, environment.device, environment.processes
    batches = _Batches(train, settings, backbone.spec, processes)
    checks = _Batches(validation, settings, backbone.spec, processes)
    if processes.size > 1:
        share_batch_norm(backbone)
    backbone.to(device).to(memory_format=torch.channels_last)
    head = plan.make_model(backbone.num_features).to(device)
    network = _Network(backbone, head, make_minimiser(plan, plan.objective).loss)
    modules = torch.nn.ModuleDict({"backbone": backbone, "head": network.head})
    if settings.precision is Precision.FLOAT64:
        modules.double()
    steps = settings.epochs * batches.count
    training = Training(modules, settings, steps, stages)
    losses = training.losses
    best: dict[str, Tensor] = training.begun.get("best") or copy_weights(backbone)
    stepper = Stepper(network, training.optimiser, training.schedule, settings, device, processes)
    for epoch in range(len(losses), settings.epochs):
        modules.train()
        total = 0.0
        with closing(batches.shuffled(epoch)) as shuffled:
            for done, (size, parts) in enumerate(shuffled, epoch * batches.count + 1):
                total += stepper.step(parts) * size
                log(TaskProgress(FINETUNE, done / steps))
        modules.eval()
        with closing(checks.in_order()) as in_order:
            checked = sum(stepper.check(parts) * size for size, parts in in_order)
        total, checked = total / len(train), checked / len(validation)
        if not losses or checked < min(loss for _, loss in losses):
            best = copy_weights(backbone)
        losses.append((total, checked))
        log(EpochFinished(FINETUNE, epoch + 1, settings.epochs, total, checked))
        training.keep(best=best)
    backbone.cpu().float()
    return {"best": best, "last": copy_weights(backbone), "losses": losses}


class _Network(torch.nn.Module):
    """Network, head and objective: pixels to the mean loss of their images."""

    def __init__(self, backbone: Backbone, head: LabelCrf, objective: Objective) -> None:
        super().__init__()
        self.backbone, self.head, self._objective = backbone, head, objective

    def forward(self, pixels: Tensor, known: Tensor, first_image: int) -> Tensor:
        """Return the loss of pixels uint8 (N, H, W, 3) and targets 1, 0, -1 unknown (N, L)."""
        features = self.backbone(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            potentials = self.head(features.to(self.head.output.weight.dtype))
            objective = from_image(self._objective, first_image)
            loss: Tensor = objective(potentials, known)
            return loss


@dataclass(frozen=True)
class _Augmentation:
    """Random changes of images, drawn in advance.

    Attributes:
        flips: whether each image is flipped left to right (N,).
        boxes: top, left, height and width of the crop of each image (N, 4); None does not crop.
    """

    flips: NDArray[np.bool_]
    boxes: NDArray[np.int64] | None

    @classmethod
    def draw(
        cls, rng: np.random.Generator, count: int, size_px: int, min_crop: float
    ) -> "_Augmentation":
        """Draw changes of square images; a crop has a random area and ratio of its sides."""
        flips = rng.random(count) < 0.5
        if min_crop == 1:
            return cls(flips, None)
        area, root = rng.uniform(min_crop, 1, count), rng.uniform(-1, 1, count) * math.log(4 / 3)
        sides = np.sqrt(area)[:, None] * np.exp(np.stack([root, -root], 1) / 2)
        sides = np.rint(sides * size_px).clip(1, size_px).astype(np.int64)
        corners = rng.integers(0, size_px - sides + 1)
        return cls(flips, np.concatenate([corners, sides], 1))

    def apply(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Change pixels (N, H, W, 3) of the images in these rows."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        changed = []
        for original, row in zip(images, rows.tolist(), strict=True):
            image = original
            if self.boxes is not None:
                box = self.boxes[row].tolist()
                image = transforms.resized_crop(image, *box, size=list(image.shape[1:]))
            changed.append(transforms.horizontal_flip(image) if self.flips[row] else image)
        return torch.stack(changed).permute(0, 2, 3, 1).contiguous().numpy()


class _Batches:
    """This process's share of images and targets in batches; decoded once if they fit in memory.

    Attributes:
        count: number of batches.
    """

    def __init__(
        self, manifest: Manifest, settings: TrainSettings, spec: BackboneSpec, processes: Processes
    ) -> None:
        self._manifest, self._settings = manifest, settings
        self._size_px, self._framing = spec.size_px, spec.framing
        self._processes = processes
        self.count = math.ceil(len(manifest) / settings.batch_size)
        fits = len(manifest) * spec.size_px * spec.size_px * 3 <= _KEEP_BYTES
        self._kept = self._decode(manifest.images) if fits else None

    def in_order(self) -> Generator[tuple[int, list[Part]], None, None]:
        """Yield every image once, unchanged."""
        return self._batches(np.arange(len(self._manifest)), None)

    def shuffled(self, epoch: int) -> Generator[tuple[int, list[Part]], None, None]:
        """Yield every image once, augmented, in an order given by seed and epoch."""
        rng = np.random.default_rng((self._settings.seed, epoch))
        order = rng.permutation(len(self._manifest))
        min_crop = self._settings.min_crop
        return self._batches(order, _Augmentation.draw(rng, len(order), self._size_px, min_crop))

    def _batches(
        self, order: NDArray[np.int64], augmentation: _Augmentation | None
    ) -> Generator[tuple[int, list[Part]], None, None]:
        """Yield size and parts of each batch, while the next batch is decoded.

        Close it, which ends its thread: left to the garbage collector, that can wait for ever.
        """
        size = self._settings.batch_size
        batches = [np.arange(at, min(at + size, len(order))) for at in range(0, len(order), size)]
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._parts, order, batches[0], augmentation)
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                parts = coming.result()
                if following is not None:
                    coming = ahead.submit(self._parts, order, following, augmentation)
                yield len(batch), parts

    def _parts(
        self, order: NDArray[np.int64], batch: NDArray[np.int64], augmentation: _Augmentation | None
    ) -> list[Part]:
        """Return this process's parts of one batch, one per gradient.

        Args:
            batch: positions in `order`.
        """
        parts, begin = [], 0
        count = min(self._settings.gradient_accumulation, len(batch))
        for rows in np.array_split(batch, count):
            own = self._processes.shard(len(rows))
            is_shared = len(rows) >= self._processes.size
            if not is_shared:  # fewer images than processes: each computes all of them
                own = slice(0, len(rows))
            mine = rows[own]
            pixels = self._pixels(order[mine])
            if augmentation is not None:
                pixels = augmentation.apply(pixels, mine)
            copies = 1 if is_shared else self._processes.size
            parts.append(
                Part(
                    pixels,
                    self._manifest.targets[order[mine]],
                    first_image=begin + own.start,
                    weight=len(mine) / len(batch) / copies,
                    is_shared=is_shared,
                )
            )
            begin += len(rows)
        return parts

    def _pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._kept is not None:
            return self._kept[rows]
        return self._decode([self._manifest.images[row] for row in rows])

    def _decode(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(self._load, images)))

    def _load(self, image: Image) -> NDArray[np.uint8]:
        try:
            return load_pixels(image, self._size_px, self._framing)
        except DataError as error:
            raise DataError(f"{error}; remove it from the table") from error
