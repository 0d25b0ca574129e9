"""Events of a training run: lines of text, and the progress of a fit."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FitProgress:
    """State of a fit after a gradient over all images.

    Attributes:
        gradient: number of this gradient, from 1.
        loss: objective plus penalty, in nats per image; only the objective's score if sampled.
        remaining: estimated remaining decrease of the loss, in nats per image.
        is_sampled: whether the gradient is a sampled estimate, whose noise counts in `remaining`.
        fit: name of the fit.
        share: estimated share of the fit that is done.
    """

    gradient: int
    loss: float
    remaining: float
    is_sampled: bool = False
    fit: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        kind, noise = ("score", ", noise included") if self.is_sampled else ("loss", "")
        line = (
            f"gradient {self.gradient}: {kind} {self.loss:.8g}, about {self.remaining:.1e} to gain"
        )
        return f"{self.fit}: {line}{noise}" if self.fit else f"{line}{noise}"


@dataclass(frozen=True)
class EpochProgress:
    """State of training by epochs after a batch.

    Attributes:
        task: name of the training.
        share: share of all batches of all epochs that is done.
    """

    task: str
    share: float


Event = str | FitProgress | EpochProgress
Log = Callable[[Event], None]


def without_gradients(show: Callable[[str], None]) -> Log:
    """Return a log that omits the progress of single gradients and batches."""

    def log(event: Event) -> None:
        if isinstance(event, str):
            show(event)

    return log
