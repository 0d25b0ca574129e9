"""Events of a training run: lines of text, the progress of fits and epochs, and their results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcrf.config import TrainSettings
from mlcrf.hints import counted
from mlcrf.training.time_to_go import FitsPlanned

if TYPE_CHECKING:  # slow import
    from mlcrf.training.preconditioner import Penalty


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
class FitReport:
    """Result of a fit, without the model.

    Attributes:
        loss: objective plus penalty, in nats per image.
        remaining: estimated remaining decrease of the loss (Newton decrement), in nats per image.
        converged: whether `remaining` is at most the tolerance, or the rounding error of the loss.
        gradients: number of gradients over all images.
        seconds: wall time.
        stopped_early: whether the model is the best on held-out images instead of the last one.
    """

    loss: float
    remaining: float
    converged: bool
    gradients: int
    seconds: float
    stopped_early: bool = False


@dataclass(frozen=True)
class TaskProgress:
    """State of a part of the training whose length is known.

    Attributes:
        task: name of the part.
        share: share of it that is done; of training by epochs, of all batches of all epochs.
    """

    task: str
    share: float


@dataclass(frozen=True)
class TaskStarted:
    """The begin of a part of the training that is neither a fit nor an epoch.

    Attributes:
        is_last: whether no fit comes after it.
    """

    task: str
    is_last: bool = False


@dataclass(frozen=True)
class FitFinished:
    """The result of a fit.

    Attributes:
        validation_loss: loss of validation images; None if the fit has no such loss of its own.
    """

    fit: str
    penalty: "Penalty"
    report: FitReport
    validation_loss: float | None = None

    def __str__(self) -> str:
        report = self.report
        checked = "" if self.validation_loss is None else f", validation {self.validation_loss:.4f}"
        ending = "" if report.converged else ", NOT converged"
        if report.stopped_early:
            ending = ", stopped at the best on validation images"
        return (
            f"{self.fit}: loss {report.loss:.4f}{checked}, {counted(report.gradients, 'gradient')} "
            f"in {report.seconds:.0f} s{ending}"
        )


@dataclass(frozen=True)
class EpochFinished:
    """The losses of an epoch; that of validation images is None if they are not looked at."""

    task: str
    epoch: int
    epochs: int
    loss: float
    validation_loss: float | None = None

    def __str__(self) -> str:
        checked = "" if self.validation_loss is None else f", validation {self.validation_loss:.4f}"
        return f"{self.task}: epoch {self.epoch} of {self.epochs}, loss {self.loss:.4f}{checked}"


@dataclass(frozen=True)
class RunStarted:
    """The run directory has been created, or is continued."""

    folder: Path
    settings: TrainSettings


@dataclass(frozen=True)
class RunFinished:
    """The end of a training run, with the figures of both models as in `metrics.json`."""

    fits: Mapping[str, Mapping[str, float]]


Line = str | FitsPlanned | FitFinished | EpochFinished  # what is shown as a line of text
Event = Line | TaskStarted | FitProgress | TaskProgress | RunStarted | RunFinished
Log = Callable[[Event], None]


def without_gradients(show: Callable[[str], None]) -> Log:
    """Return a log of lines, without the progress of single gradients and batches."""

    def log(event: Event) -> None:
        if isinstance(event, Line):
            show(str(event))

    return log
