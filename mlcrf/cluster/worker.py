"""The actor that tags images on a machine of a cluster."""

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

Numbered = tuple[int, "Image"]  # its index in the listing


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to tag as the command would that it works for.

    Attributes:
        job: what predictions depend on.
        model: the run directory, or the name of a model that comes with mlcrf.
        folder: what names of images are relative to.
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
        notes: what a user should know of work that goes on.
        failure: why there are no predictions; a user can mend it.
    """

    predictions: "Sequence[Prediction]" = ()
    notes: Sequence[str] = ()
    failure: str = ""


class Worker:
    """Tags part after part; the run is loaded with the first.

    Args:
        num_threads: those that it may use.
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
                f"{setup.model}: is another run on {platform.node()} than here; put the same in a "
                "place that all machines have"
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
            f"{folder}: is not there on {platform.node()}; name images by a path that all machines "
            "have, or keep them in an object store"
        ) from error
