"""From pictures to predictions by way of a cluster, in order."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from mlcrf.cluster.chunks import cut, in_order, pack_pictures, unpack_said
from mlcrf.cluster.connecting import connected, parse_address
from mlcrf.cluster.coordinator import Coordinator
from mlcrf.cluster.worker import WorkerSetup
from mlcrf.errors import ClusterError
from mlcrf.images import ListedImages
from mlcrf.prediction import Prediction

_CHUNKS_AT_ONCE = 64  # that are handed over


def predict_on(
    cluster: str,
    setup: WorkerSetup,
    pictures: ListedImages,
    *,
    workers: int | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Generator[Prediction, None, None]:
    """One prediction a picture, in order, as `Tagger.predict_listed` gives them.

    Names of pictures are listed and handed over first; memory here does not grow with their
    number, but for one reference to each 256. Workers read the pictures themselves. What died is
    done again, so that each picture has exactly one prediction.

    Args:
        cluster: see `parse_address`.
        workers: how many; one for up to four cores if None.
        note: is told once what a user should know of work that went on.

    Raises:
        SettingsError: the address is none.
        ClusterError: the cluster cannot be reached, or gave up.
        MlcrfError: what `Tagger` raises, on whatever machine.
    """
    with connected(parse_address(cluster)) as ray:
        coordinator = (
            ray.remote(Coordinator)
            .options(num_cpus=0)
            .remote([ray.put(setup)], workers, on_gpus=setup.device.startswith("cuda"))
        )
        chunks, count = cut(pictures, album=setup.job.album), 0
        while some := list(islice(chunks, _CHUNKS_AT_ONCE)):
            ray.get(coordinator.add.remote([pack_pictures(chunk) for chunk in some]))
            count += sum(map(len, some))
        if failure := ray.get(coordinator.start.remote()):
            raise ClusterError(failure)
        yield from in_order(_answers(ray, coordinator, note), count)


def _answers(ray: Any, coordinator: Any, note: Callable[[str], None]) -> Iterator[Prediction]:
    told = set[str]()
    coming = coordinator.next.remote()
    while (table := ray.get(coming)) is not None:
        coming = coordinator.next.remote()
        said = unpack_said(table)
        for one in said.notes:
            if one not in told:
                told.add(one)
                note(one)
        if said.failure:
            raise ClusterError(said.failure)
        yield from said.predictions
