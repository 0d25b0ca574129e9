"""Process concurrent requests in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class Busy(Exception):  # noqa: N818  not a user error
    """Too many items are waiting."""


@dataclass(eq=False)
class _Waiting(Generic[Prepared, Result]):
    """A waiting item, and its prepared value once available."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Result]"
    prepared: list[Prepared] = field(default_factory=list)


class Batcher(Generic[Item, Prepared, Result]):
    """A queue that prepares items in several threads, and processes batches in one thread.

    A batch does not wait for more items: items that arrive while a batch is processed form the
    next, so batches grow with load. Requests take turns item by item.

    Args:
        prepare: function of one item; called in several threads.
        work: function from prepared items to results, in order; called in one thread only.
        threads: number of threads that prepare.
        most: maximum batch size.
        waiting: maximum number of waiting items; more are refused.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Prepared],
        work: Callable[[list[Prepared]], Sequence[Result]],
        *,
        threads: int,
        most: int,
        waiting: int,
    ) -> None:
        self._prepare, self._work, self._most, self._limit = prepare, work, most, waiting
        self._waiting = 0  # changed in the event loop's thread only
        self._ready: deque[_Waiting[Prepared, Result]] = deque()
        self._asked: deque[deque[tuple[Item, _Waiting[Prepared, Result]]]] = deque()
        self._changed, self._closed = Condition(), False
        self._preparing = ThreadPoolExecutor(threads, thread_name_prefix="preparing")
        self._thread = Thread(target=self._process_batches, name="tagging", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of waiting items, without those being processed."""
        return self._waiting

    @property
    def full(self) -> bool:
        """True if the queue is full."""
        return self._waiting >= self._limit

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of all items.

        Raises:
            Busy: too many items are waiting.
        """
        if self._waiting + len(items) > self._limit:
            raise Busy
        loop = asyncio.get_running_loop()
        asked = deque(
            (item, _Waiting[Prepared, Result](loop, loop.create_future())) for item in items
        )
        futures = [one.future for _, one in asked]
        self._waiting += len(asked)
        if asked:
            with self._changed:
                self._asked.append(asked)
        for _ in futures:
            self._preparing.submit(self._prepare_next)
        try:
            return list(await asyncio.gather(*futures))
        finally:  # drops the items after a disconnect
            for future in futures:
                future.cancel()

    def _prepare_next(self) -> None:
        with self._changed:
            request = self._asked.popleft()
            item, one = request.popleft()
            if request:
                self._asked.append(request)
        try:
            if not one.future.done():
                one.prepared.append(self._prepare(item))
        except Exception as error:  # noqa: BLE001  raised at the caller of this item
            _tell(one.loop, self._begin, 1)
            _tell(one.loop, _fail, [one], error)
            return
        with self._changed:
            self._ready.append(one)
            self._changed.notify()

    def _process_batches(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closed)
                if not self._ready:
                    return
                taken = [self._ready.popleft() for _ in range(min(self._most, len(self._ready)))]
            _tell(taken[0].loop, self._begin, len(taken))
            batch = [one for one in taken if one.prepared and not one.future.done()]
            if not batch:
                continue
            try:
                results = self._work([one.prepared.pop() for one in batch])
            except Exception as error:  # noqa: BLE001  raised at the callers of the items
                _tell(batch[0].loop, _fail, batch, error)
            else:
                _tell(batch[0].loop, _give, batch, results)

    def _begin(self, number: int) -> None:
        self._waiting -= number

    def close(self) -> None:
        """Finish all items, then stop the threads."""
        self._preparing.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Call a function in the event loop's thread, unless the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)


def _give(batch: list[_Waiting[Prepared, Result]], results: Sequence[Result]) -> None:
    for one, result in zip(batch, results, strict=True):
        if not one.future.done():
            one.future.set_result(result)


def _fail(batch: list[_Waiting[Prepared, Result]], error: Exception) -> None:
    for one in batch:
        if not one.future.done():
            one.future.set_exception(error)
