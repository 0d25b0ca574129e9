"""Requests that come at the same time are worked on together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):  # noqa: N818  no fault of anybody's
    """So many wait already that another would wait too long."""


class Batcher(Generic[Item, Result]):
    """Works on what waits, as much at a time as there is, in one thread.

    Nobody waits for others to come: while one batch is worked on the next gathers, so that batches
    are small where there is little to do and grow as there is more.

    Args:
        work: from items to their results, in order; called in one thread only.
        most: items of one batch.
        waiting: items that may wait; more are refused.
    """

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Result]], *, most: int, waiting: int
    ) -> None:
        self._work, self._most, self._limit = work, most, waiting
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tagging")
        self._working: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many items wait, those that are worked on not counted."""
        return len(self._waiting)

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """The results of some items, all of them or none.

        Raises:
            Busy: they are more than may wait.
        """
        if len(self._waiting) + len(items) > self._limit:
            raise Busy
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._run())
        try:
            return list(await asyncio.gather(*futures))
        finally:  # who has gone is not worked for
            for future in futures:
                future.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch: list[tuple[Item, asyncio.Future[Result]]] = []
            while self._waiting and len(batch) < self._most:
                item, future = self._waiting.popleft()
                if not future.done():
                    batch.append((item, future))
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(
                    self._thread, self._work, [item for item, _ in batch]
                )
            except Exception as error:  # noqa: BLE001  it is raised where the items came from
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def close(self) -> None:
        """Wait for the batch that is worked on."""
        self._thread.shutdown()
