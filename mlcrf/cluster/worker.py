"""The Ray actor that tags images on a machine of a cluster."""

import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcrf.errors import ClusterError, MlcrfError, MlcrfWarning

if TYPE_CHECKING:
    from mlcrf.choices import EngineName
    from mlcrf.images import Image
    from mlcrf.prediction import Prediction, PredictJob, Tagger

Numbered = tuple[int, "Image"]  # with the index in the listing


@dataclass(frozen=True)
class WorkerSetup:
    """The settings of the command that a worker works for.

    Attributes:
        job: settings of predictions.
        model: the run directory, or the name of a model that comes with mlcrf.
        folder: folder that relative names of images start from.
    """

    job: "PredictJob"
    model: Path
    folder: Path
    engine: "EngineName"
    device: str
    cache_dir: Path | None = None


@dataclass(frozen=True)
class Tagged:
    """The answer of a worker.

    Attributes:
        notes: messages to the user.
        failure: why there are no predictions; an error that a user can fix.
    """

    predictions: "Sequence[Prediction]" = ()
    notes: Sequence[str] = ()
    failure: str = ""


class Worker:
    """A worker that tags one part after another; the first part loads the run.

    Args:
        num_threads: number of threads that the worker may use.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._tagger: Tagger | None = None

    def tag(self, setup: WorkerSetup, images: "Sequence[Numbered]") -> Tagged:
        """Tag the images of a part."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=MlcrfWarning)
            try:
                tagged = Tagged(self._predict(setup, images))
            except MlcrfError as error:
                tagged = Tagged(failure=str(error))
        return replace(tagged, notes=[str(one.message) for one in caught])

    def _predict(self, setup: WorkerSetup, images: "Sequence[Numbered]") -> "list[Prediction]":
        if any(one.location and not one.location.is_absolute() for _, one in images):
            _enter(setup.folder)
        if self._tagger is None:
            self._tagger = self._load(setup)
        predictions = self._tagger.predict(image for _, image in images)
        return [
            replace(one, listed=number)
            for (number, _), one in zip(images, predictions, strict=True)
        ]

    def _load(self, setup: WorkerSetup) -> "Tagger":
        from mlcrf.backbones.engines import pick_device
        from mlcrf.checkpoint import load_run
        from mlcrf.prediction import Tagger

        run = load_run(setup.model)
        if run.digest != setup.job.run:
            raise ClusterError(
                f"{setup.model}: differs on {platform.node()}; put the same run at this path on "
                "all machines"
            )
        return Tagger(
            run,
            setup.job,
            engine=setup.engine,
            device=pick_device(setup.device),
            cache_dir=setup.cache_dir,
            num_threads=self._num_threads,
        )


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise ClusterError(
            f"{folder}: does not exist on {platform.node()}; put the images at the same path on "
            "all machines, or in an object store"
        ) from error
