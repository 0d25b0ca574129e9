"""Gradient steps of one or several processes that train a network together."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import OneCycleLR

from mlcrf.choices import Precision
from mlcrf.config import TrainSettings
from mlcrf.errors import PotentialsError, RunError, SettingsError
from mlcrf.processes import Processes
from mlcrf.training.stages import Result, Stages

_NAMES = {
    Precision.FLOAT64: "no",
    Precision.FLOAT32: "no",
    Precision.BFLOAT16: "bf16",
    Precision.FLOAT16: "fp16",
}
_REMEDY = "lower --set learning_rate"
FINETUNE = "finetune"  # stage of a run that trains a network


@dataclass(frozen=True)
class Part:
    """A part of a batch that one process computes in one pass.

    Attributes:
        pixels: uint8 (N, H, W, 3).
        targets: 1, 0, -1 unknown (N, L).
        first_image: position of the first image in the batch.
        weight: weight of the part's mean loss in the batch's; weights of all processes sum to 1.
        is_shared: whether processes have different images; else each has all of them.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int8]
    first_image: int
    weight: float
    is_shared: bool


class Stepper:
    """Optimiser steps of a network that returns its loss, over the batches of all processes.

    accelerate sets up mixed precision and torch's distributed data parallel, which sums gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        settings: TrainSettings,
        device: torch.device,
        processes: Processes,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self._plain, self._device, self._processes = network, device, processes
        self._schedule = schedule
        self._norms = [one for one in network.modules() if isinstance(one, SharedBatchNorm)]
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            device_placement=False,
            mixed_precision=_NAMES[_precision(settings, device)],
        )
        self._network, self._optimiser = self._accelerator.prepare(network, optimiser)

    def step(self, parts: Sequence[Part]) -> float:
        """Make one step on a batch; return its mean loss before the step, over all processes.

        Raises:
            RunError: loss or gradient is not finite.
        """
        self._optimiser.zero_grad()
        total = torch.zeros(1, dtype=torch.float64)
        with self._processes.reporting_losses():
            for number, part in enumerate(parts, start=1):
                with ExitStack() as stack:
                    if number < len(parts):  # gradients are exchanged only after the last part
                        stack.enter_context(self._accelerator.no_sync(self._network))
                    loss = part.weight * self._loss(self._network, part)
                    # data parallel takes the mean over processes, and weights sum to 1
                    self._accelerator.backward(loss * self._processes.size)
                total += float(loss.detach())
            norm = self._accelerator.clip_grad_norm_(self._network.parameters(), 5.0)
        self._processes.all_reduce(total)
        is_scaled = self._accelerator.scaler is not None  # the scaler skips steps that overflow
        if not is_scaled and not bool(torch.isfinite(norm)):
            raise RunError(f"finetune: the gradient is not finite; {_REMEDY}")
        self._optimiser.step()
        self._schedule.step()
        return float(total)

    @torch.no_grad()
    def check(self, parts: Sequence[Part]) -> float:
        """Return the mean loss of a batch over all processes.

        Raises:
            RunError: it is not finite.
        """
        total = torch.zeros(1, dtype=torch.float64)
        for part in parts:
            total += part.weight * float(self._loss(self._plain, part))
        self._processes.all_reduce(total)
        return float(total)

    def _loss(self, network: nn.Module, part: Part) -> Tensor:
        for norm in self._norms:
            norm.is_shared = part.is_shared
        pixels = torch.from_numpy(part.pixels).to(self._device)
        known = torch.from_numpy(part.targets.astype(np.int64)).to(self._device)
        try:
            with self._accelerator.autocast():
                loss: Tensor = network(pixels, known, part.first_image)
            if self._processes.size > 1 and torch.is_grad_enabled():
                # data parallel waits for the gradient of every parameter, used or not
                loss = loss + 0 * sum(one.sum() for one in network.parameters())
        except PotentialsError as error:
            raise RunError(f"finetune: diverged ({error}); {_REMEDY}") from error
        if not bool(torch.isfinite(loss)):
            raise RunError(f"finetune: the loss is {float(loss.detach())}; {_REMEDY}")
        return loss


def one_cycle(optimiser: torch.optim.Optimizer, rate: float, steps: int) -> OneCycleLR:
    """Raise the learning rate over the first tenth of the steps, then lower it by a cosine to 0."""
    total = max(steps, 2)
    warm_up = 1.1 if total == 10 else total / 10  # torch divides by zero if it is one step
    return OneCycleLR(optimiser, rate, total_steps=total, pct_start=warm_up / total)


class Training:
    """Modules in training, with AdamW and its learning rates, as stages of a run keep them.

    Args:
        steps: number of all steps.
        stages: where an earlier run has kept its last epoch, if it has; it goes on from there.
        stage: the name that it is kept by.

    Attributes:
        losses: training and validation loss of each epoch so far.
        begun: what was kept beside these; empty at the first epoch.
    """

    def __init__(
        self,
        modules: nn.Module,
        settings: TrainSettings,
        steps: int,
        stages: Stages,
        stage: str = FINETUNE,
    ) -> None:
        self._modules, self._stages, self._stage = modules, stages, stage
        self.optimiser = torch.optim.AdamW(
            modules.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = one_cycle(self.optimiser, settings.learning_rate, steps)
        self.losses: list[tuple[float, float]] = []
        self.begun: Result = stages.find(stage) or {}
        if self.begun:
            modules.load_state_dict(self.begun["modules"])
            self.optimiser.load_state_dict(self.begun["optimiser"])
            self.schedule.load_state_dict(self.begun["schedule"])
            self.losses = self.begun["losses"]

    def keep(self, **more: Any) -> None:
        """Keep the state after an epoch, and more beside it."""
        state = {
            "modules": self._modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
        }
        self._stages.keep(self._stage, state | more)


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights of a network on the CPU, real ones in float32."""
    return {
        key: value.detach().cpu().to(kind).clone(memory_format=torch.contiguous_format)
        for key, value in network.state_dict().items()
        for kind in [torch.float32 if value.is_floating_point() else value.dtype]
    }


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the images of all processes, on any device.

    Attributes:
        is_shared: whether processes have different images; else each normalises separately.
    """

    is_shared = True

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (N, C, H, W), in training by mean and variance over all processes."""
        if not (self.training and self.is_shared):
            normal = super().forward(maps)
        else:
            wide = maps if maps.dtype == torch.float64 else maps.float()
            normal = self._normalised(wide).to(maps.dtype)
        for name in ("drop", "act"):  # timm's own class applies these next
            if hasattr(self, name):
                normal = getattr(self, name)(normal)
        return normal

    def _normalised(self, maps: Tensor) -> Tensor:
        sums = maps.sum((0, 2, 3))
        count = maps.new_tensor([maps.numel() // maps.shape[1]])
        both = _sum(torch.cat([sums, count]))
        sums, count = both[:-1], both[-1]
        mean = (sums / count)[:, None, None]
        centred = maps - mean
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None:
            self._remember(mean.detach().flatten(), variance.detach(), float(count))
        normal: Tensor = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return normal

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(1.0, count - 1)), share)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  torch's name
        if input.ndim != 4:
            raise ValueError(f"expected (N, C, H, W), got {tuple(input.shape)}")


def share_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm2d of a network a `SharedBatchNorm`, in place.

    Parameters and running statistics are kept.
    """
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SharedBatchNorm):
                shared = SharedBatchNorm.__new__(SharedBatchNorm)
                shared.__dict__ = child.__dict__
                setattr(module, name, shared)


def _sum(values: Tensor) -> Tensor:
    """Return the sum over processes; the gradient is summed too."""
    total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total


def _precision(settings: TrainSettings, device: torch.device) -> Precision:
    asked: Any = settings.precision
    if asked is Precision.AUTO:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return Precision.BFLOAT16 if able else Precision.FLOAT32
    if asked is Precision.FLOAT16 and device.type != "cuda":
        raise SettingsError(
            f"precision float16 is for CUDA; on {device.type} use --set precision=bfloat16"
        )
    return Precision(asked)
