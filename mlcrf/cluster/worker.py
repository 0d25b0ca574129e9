"""What works on chunks on the machines of a cluster."""

import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlcrf.errors import ClusterError, MlcrfError, MlcrfWarning

if TYPE_CHECKING:  # torch, which the coordinator has no need of
    from mlcrf.choices import EngineName
    from mlcrf.cluster.chunks import Numbered, Said
    from mlcrf.prediction import PredictJob, Tagger


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to tag as the command would that it works for.

    Attributes:
        job: what predictions depend on; nothing of it is read from the images' keywords.
        model: the run directory, or the name of a model that comes with mlcrf.
        folder: what names of images are relative to.
    """

    job: "PredictJob"
    model: Path
    folder: Path
    engine: "EngineName"
    device: str
    cache_dir: Path | None = None


class Worker:
    """Tags chunk after chunk; the run is loaded with the first.

    Errors that a user can mend are part of what it returns, since there is nobody to read them
    here.

    Args:
        setup: a list of what Ray makes the setup of.
        num_threads: those that it may use.
    """

    def __init__(self, setup: Sequence[Any], num_threads: int) -> None:
        import ray

        self._setup: WorkerSetup = ray.get(setup[0])
        self._num_threads = num_threads
        self._tagger: Tagger | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """From a chunk to what is said of it."""
        from mlcrf.cluster.chunks import Said, pack_said, unpack_pictures

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=MlcrfWarning)
            try:
                said = self._tag(unpack_pictures(table))
            except MlcrfError as error:
                said = Said(failure=str(error))
        return pack_said(replace(said, notes=[str(one.message) for one in caught]))

    def _tag(self, chunk: "Sequence[Numbered]") -> "Said":
        from mlcrf.cluster.chunks import Said

        pictures = [picture for _, picture in chunk]
        if any(one.location and not one.location.is_absolute() for one in pictures):
            self._enter_folder()
        if self._tagger is None:
            self._tagger = self._load()
        predictions = zip(chunk, self._tagger.predict(pictures), strict=True)
        return Said([replace(one, listed=number) for (number, _), one in predictions])

    def _load(self) -> "Tagger":
        from mlcrf.backbones.engines import pick_device
        from mlcrf.checkpoint import load_run
        from mlcrf.prediction import Tagger

        setup = self._setup
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

    def _enter_folder(self) -> None:
        try:
            os.chdir(self._setup.folder)
        except OSError as error:
            raise ClusterError(
                f"{self._setup.folder}: is not there on {platform.node()}; name photos by a path "
                "that all machines have, or keep them in an object store"
            ) from error
