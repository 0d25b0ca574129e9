"""What runs on the cluster beside the workers: Ray Data, and the plan of who works with what.

Ray Data needs to be on the cluster, which a program that only connects to one is not.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mlcrf.cluster.worker import Worker
from mlcrf.errors import ClusterError

_CORES_EACH = 4  # at most, where nobody says how many workers there are to be
_RETRIES = 4  # of a chunk whose worker died


@dataclass(frozen=True)
class Plan:
    """How many workers, and what each has."""

    workers: int
    cores: int
    gpus: int = 0


def make_plan(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, *, on_gpus: bool = False
) -> Plan:
    """Workers that fill the machines of a cluster, all with as many cores.

    Args:
        nodes: of each machine its `CPU` and `GPU`.
        workers: how many there are to be; one for up to four cores if None.
        on_gpus: one a GPU.

    Raises:
        ClusterError: it has fewer cores than there are to be workers, or no GPU.
    """
    cores = [count for node in nodes if (count := int(node.get("CPU", 0)))]
    if on_gpus:
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if not gpus:
            raise ClusterError("the cluster has no GPU; leave out --device, or say cpu")
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


class Coordinator:
    """An actor without cores of its own; chunks are added, then answers taken in their order.

    Ray keeps both in its object store, and on disks where that is full. A worker that dies is
    started again and its chunk done again, up to five times in all.

    Args:
        job: a list of a reference to the job, which workers make the job of.
        workers: how many; see `make_plan`.
    """

    def __init__(self, job: Sequence[Any], workers: int | None, *, on_gpus: bool) -> None:
        self._job, self._workers, self._on_gpus = job, workers, on_gpus
        self._chunks: list[Any] = []
        self._answers: Iterator[pa.Table] = iter(())

    def add(self, chunks: Sequence[pa.Table]) -> None:
        """Take chunks of pictures."""
        import ray

        self._chunks += [ray.put(chunk) for chunk in chunks]

    def start(self) -> str:
        """Begin; what is wrong with the cluster, if something is."""
        import ray as _ray
        from ray import data

        ray: Any = _ray  # `nodes` has no types

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            plan = make_plan(nodes, self._workers, on_gpus=self._on_gpus)
        except ClusterError as error:
            return str(error)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        workers = min(plan.workers, len(self._chunks))
        answers = data.from_arrow_refs(self._chunks).map_batches(
            Worker,
            fn_constructor_args=(self._job, plan.cores),
            batch_size=None,  # chunks as they are
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=plan.cores,
            num_gpus=plan.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": _RETRIES},
        )
        batches = answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        self._answers = iter(batches)
        return ""

    def next(self) -> pa.Table | None:
        """The next answers, of one chunk or several; None if that was all."""
        return next(self._answers, None)
