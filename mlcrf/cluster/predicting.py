"""Prediction in parts by the workers of a Ray cluster.

A part has as many images as the CRF processes together, so that batches are the same as without a
cluster. This process writes each finished part to disk, and skips it when the command is run again.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from mlcrf.cluster.connecting import connected, parse_address
from mlcrf.cluster.worker import Numbered, Tagged, Worker, WorkerSetup
from mlcrf.errors import ClusterError, DataError
from mlcrf.images import ListedImages
from mlcrf.labels import LabelSpace
from mlcrf.prediction import (
    LARGEST_ALBUM,
    TOGETHER,
    Origin,
    Part,
    PartFormat,
    Prediction,
    PredictionWriter,
    PredictJob,
)
from mlcrf.prediction.formats.parts import remove_parts
from mlcrf.stores import Stored

_CORES_EACH = 4  # maximum per worker, if the number of workers is not given
_RETRIES = 4  # retries of a part whose worker died


@dataclass(frozen=True)
class PartsOf:
    """The images to cut into parts, and the folder of the parts.

    Attributes:
        folder: folder of the parts.
        labels, origin: labels and origin of the run.
    """

    images: ListedImages
    folder: Path | Stored
    labels: LabelSpace
    origin: Origin


def predict_parts(
    cluster: str,
    setup: WorkerSetup,
    parts: PartsOf,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Make all missing parts; `Parts` of the folder then yields the predictions in order.

    This process lists the images and hands out the names of one part at a time; workers read the
    images. A worker that dies is restarted, and its part tried again, up to five times in all.

    Args:
        cluster: see `parse_address`.
        workers: number of workers; see `plan_workers`.
        progress: called with the number of finished images, and of all images.
        note: called once with each message of a worker to the user.

    Raises:
        SettingsError: invalid address.
        ClusterError: the cluster cannot be reached, or failed.
        MlcrfError: as `Tagger` raises, on any machine.
    """
    address, unfinished = parse_address(cluster), _Unfinished(parts, setup.job)
    if not unfinished.missing:
        return
    told = set[str]()
    with connected(address) as ray:
        pool = _Pool(ray, setup, workers, most=len(unfinished.missing))

        def finish_one() -> None:
            at, tagged = pool.finish_one()
            for text in tagged.notes:
                if text not in told:
                    told.add(text)
                    note(text)
            if tagged.failure:
                raise ClusterError(tagged.failure)
            unfinished.write(at, tagged.predictions)
            progress(unfinished.done, len(parts.images))

        for at, chunk in unfinished.chunks():
            if not pool.idle:
                finish_one()
            pool.hand_out(at, chunk)
        while pool.busy:
            finish_one()


class _Unfinished:
    """The parts that are not on disk yet.

    Attributes:
        missing: indices of these parts.
        done: number of finished images among those that `chunks` has reached.
    """

    def __init__(self, parts: PartsOf, job: PredictJob) -> None:
        self._parts, self._album, self.done = parts, job.album, 0
        digests = [_digest(chunk) for chunk in cut(parts.images, album=job.album)]
        self._outputs = [
            PartFormat(Part(number, len(digests)), job, parts.origin, digest)
            for number, digest in enumerate(digests, start=1)
        ]
        self._paths = [output.part.path(parts.folder) for output in self._outputs]
        remove_parts(parts.folder, keep=self._paths)
        both = enumerate(zip(self._outputs, self._paths, strict=True))
        self.missing = {at for at, (output, path) in both if not _is_finished(output, path)}

    def chunks(self) -> Iterator[tuple[int, list[Numbered]]]:
        """Yield the index and images of each missing part, from a second listing.

        Raises:
            ClusterError: the listing has changed.
        """
        for at, chunk in enumerate(cut(self._parts.images, album=self._album)):
            if at not in self.missing:
                self.done += len(chunk)
            elif _digest(chunk) != self._outputs[at].images:
                raise ClusterError("images were added or removed meanwhile; run the command again")
            else:
                yield at, chunk

    def write(self, at: int, predictions: Sequence[Prediction]) -> None:
        output, path = self._outputs[at], self._paths[at]
        with PredictionWriter(path, self._parts.labels, overwrite=True, output=output) as writer:
            for prediction in predictions:
                writer.write(prediction)
        self.done += len(predictions)


class _Pool:
    """Workers, each with at most one part.

    Attributes:
        idle: workers without a part.
        busy: the worker and the index of its part, by the pending answer.
    """

    def __init__(self, ray: Any, setup: WorkerSetup, workers: int | None, *, most: int) -> None:
        self._ray = ray
        self._setup = ray.put(setup)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        plan = plan_workers(nodes, workers, on_gpus=setup.device.startswith("cuda"))
        actor = ray.remote(Worker).options(
            num_cpus=plan.cores, num_gpus=plan.gpus, max_restarts=-1, max_task_retries=_RETRIES
        )
        count = min(plan.workers, most)
        self.idle: list[Any] = [actor.remote(plan.cores) for _ in range(count)]
        self.busy: dict[Any, tuple[Any, int]] = {}

    def hand_out(self, at: int, chunk: Sequence[Numbered]) -> None:
        """Hand a part to an idle worker."""
        worker = self.idle.pop()
        self.busy[worker.tag.remote(self._setup, chunk)] = (worker, at)

    def finish_one(self) -> tuple[int, Tagged]:
        """Wait for a part; return its index and the worker's answer."""
        (ready, *_), _ = self._ray.wait(list(self.busy))
        worker, at = self.busy.pop(ready)
        tagged: Tagged = self._ray.get(ready)
        self.idle.append(worker)
        return at, tagged


def cut(images: ListedImages, *, album: bool) -> Iterator[list[Numbered]]:
    """Cut images into parts, in order; with `album`, a folder's images are in one part.

    A folder is split into albums of at most 1,024 images, as without a cluster.
    """
    numbered = images.numbered()
    if not album:
        while chunk := list(islice(numbered, TOGETHER)):
            yield chunk
        return
    chunk = []
    for _, items in groupby(numbered, key=lambda one: one[1].folder):
        while piece := list(islice(items, LARGEST_ALBUM)):
            chunk += piece
            if len(chunk) >= TOGETHER:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Plan:
    """A number of workers, and the cores and GPUs of each."""

    workers: int
    cores: int
    gpus: int = 0


def plan_workers(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, *, on_gpus: bool = False
) -> Plan:
    """Return workers that fill the machines of a cluster, all with equally many cores.

    Args:
        nodes: `CPU` and `GPU` of each machine.
        workers: number of workers; None for one per up to four cores.
        on_gpus: one worker per GPU.

    Raises:
        ClusterError: the cluster has fewer cores than workers, or no GPU.
    """
    cores = [count for node in nodes if (count := int(node.get("CPU", 0)))]
    if on_gpus:
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if not gpus:
            raise ClusterError("the cluster has no GPU; leave out --device, or use --device cpu")
        return Plan(min(gpus, workers or gpus), cores=1, gpus=1)
    if sum(cores) < (workers or 1):
        raise ClusterError(f"the cluster has {sum(cores)} cores, for {workers or 1} workers")
    if workers is None:
        each = min(_CORES_EACH, *cores)
        return Plan(sum(count // each for count in cores), each)
    each = next(
        each
        for each in range(max(cores), 0, -1)
        if sum(count // each for count in cores) >= workers
    )
    return Plan(workers, each)


def _is_finished(output: PartFormat, path: Path | Stored) -> bool:
    try:
        return output.is_finished(path)
    except DataError:  # a damaged part is replaced
        return False


def _digest(chunk: Sequence[Numbered]) -> str:
    names = hashlib.sha256()
    for number, image in chunk:
        names.update(f"{number} ".encode() + os.fsencode(image.name) + b"\0")
    return names.hexdigest()
