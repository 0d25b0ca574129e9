"""Log a training run in TensorBoard, MLflow or Weights & Biases, through accelerate's trackers."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, assert_never

from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from mlcrf.choices import TrackerName
from mlcrf.errors import reason_of
from mlcrf.training.progress import (
    EpochFinished,
    Event,
    FitFinished,
    FitProgress,
    RunFinished,
    RunStarted,
)

_FOLDER = "log"  # in the run directory
_PROJECT = "mlcrf"


class RunTracker:
    """A log of training that hands the figures of its events to a tracker.

    The steps of all figures are counted together, since some trackers want steps that never fall.
    A tracker that fails does not stop the training: it is told once, and nothing more is logged.

    Args:
        tell: prints a line for the user.
    """

    def __init__(self, name: TrackerName, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._tracker: GeneralTracker | None = None
        self._step = 0

    def __call__(self, event: Event) -> None:
        """Log the figures of an event, if it has any."""
        if isinstance(event, RunStarted):
            self._attempt(lambda: self._start(event))
            return
        values = {_clean(name): value for name, value in _figures(event)}
        tracker = self._tracker
        if values and tracker is not None:
            self._step += 1
            self._attempt(lambda: tracker.log(values, step=self._step))

    def close(self) -> None:
        """Finish the log."""
        if self._tracker is not None:
            self._attempt(self._tracker.finish)
        self._tracker = None

    def _start(self, event: RunStarted) -> None:
        PartialState()  # accelerate's own log needs it
        tracker = _make_tracker(self._name, event.folder)
        tracker.start()
        tracker.store_init_configuration(_flat(event.settings.model_dump(mode="json")))
        self._tracker = tracker

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - of somebody else's program, and told
            self._tracker = None
            reason = reason_of(error)
            self._tell(
                f"note: --log {self._name}: {reason}; nothing more is logged, training goes on"
            )


@contextmanager
def tracking(
    name: TrackerName | None, tell: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Give a log to a tracker, or one that does nothing; finish it in the end, whatever happens."""
    if name is None:
        yield lambda event: None
        return
    tracker = RunTracker(name, tell)
    try:
        yield tracker
    finally:
        tracker.close()


def _make_tracker(name: TrackerName, run: Path) -> GeneralTracker:
    """Make a tracker that writes into the run directory; each start has a folder of its own."""
    folder = run.absolute() / _FOLDER
    number = 1
    while (folder / str(number)).exists():
        number += 1
    (folder / str(number)).mkdir(parents=True)
    match name:
        case TrackerName.TENSORBOARD:
            return TensorBoardTracker(str(number), folder)
        case TrackerName.MLFLOW:
            os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
            return MLflowTracker(_PROJECT, (folder / str(number)).as_uri(), run_name=run.name)
        case TrackerName.WANDB:
            mode = os.environ.get("WANDB_MODE", "offline")
            return WandBTracker(_PROJECT, name=run.name, dir=folder / str(number), mode=mode)
        case _:
            assert_never(name)


def _figures(event: Event) -> Iterator[tuple[str, float]]:
    """Yield the names and values of what an event says in numbers."""
    match event:
        case FitProgress():
            yield f"fits/{event.fit}/{'score' if event.is_sampled else 'loss'}", event.loss
            yield f"fits/{event.fit}/remaining", event.remaining
        case FitFinished():
            kind = event.fit.partition(",")[0]
            for name, value in asdict(event.penalty).items():
                yield f"candidates/{kind}/penalty_{name}", value
            yield f"candidates/{kind}/loss", event.report.loss
            yield f"candidates/{kind}/converged", float(event.report.converged)
            if event.validation_loss is not None:
                yield f"candidates/{kind}/validation_loss", event.validation_loss
        case EpochFinished():
            yield f"epochs/{event.task}/loss", event.loss
            if event.validation_loss is not None:
                yield f"epochs/{event.task}/validation_loss", event.validation_loss
        case RunFinished():
            for model, figures in event.fits.items():
                for name, value in figures.items():
                    yield f"final/{model}/{name}", float(value)


def _clean(name: str) -> str:
    """Return a name of letters that every tracker takes."""
    return re.sub(r"[^-/.\w]+", "_", name)


def _flat(settings: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return settings of which lists, and what is missing, are text."""
    return {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in settings.items()
    }
