"""Items that come together are worked on together; none is lost, mixed up or waited for."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mlcrf.serving.batching import Batcher, Busy


class Work:
    """Doubles what it gets, once it may."""

    def __init__(self) -> None:
        self.may, self.batches = threading.Event(), list[list[int]]()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.may.wait(20)
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


def run(body: Callable[[Work, Batcher[int, int]], Coroutine[Any, Any, None]]) -> Work:
    work = Work()
    batcher: Batcher[int, int] = Batcher(work, most=4, waiting=6)
    try:
        asyncio.run(body(work, batcher))
    finally:
        work.may.set()
        batcher.close()
    return work


async def begun(work: Work) -> None:
    while not work.batches:
        await asyncio.sleep(0.001)


def test_what_waits_is_one_batch() -> None:
    """The first alone, the next together, and no more at a time than allowed."""

    async def body(work: Work, batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher([1]))
        await begun(work)
        others = [asyncio.create_task(batcher([at, at + 10])) for at in (2, 3, 4)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 6
        with pytest.raises(Busy):
            await batcher([5])
        work.may.set()
        assert await first == [2]
        with pytest.raises(ValueError, match="unlucky"):
            await others[1]
        assert await others[2] == [8, 28]
        assert await batcher([7]) == [14] and batcher.waiting == 0

    assert run(body).batches[:3] == [[1], [2, 12, 3, 13], [4, 14]]


def test_who_has_gone_is_not_worked_for() -> None:
    """A request that is cut off leaves the others as they are."""

    async def body(work: Work, batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher([1]))
        await begun(work)
        gone, other = asyncio.create_task(batcher([2])), asyncio.create_task(batcher([3]))
        await asyncio.sleep(0.01)
        gone.cancel()
        first.cancel()
        await asyncio.sleep(0.01)
        work.may.set()
        assert await other == [6]

    assert run(body).batches == [[1], [3]]


def test_many_at_once() -> None:
    """Each gets its own."""

    async def body(work: Work, _: Batcher[int, int]) -> None:
        work.may.set()
        batcher: Batcher[int, int] = Batcher(work, most=16, waiting=10_000)
        numbers = [at for at in range(2000) if at != 13]
        found = await asyncio.gather(*(batcher([at]) for at in numbers))
        assert found == [[2 * at] for at in numbers]
        batcher.close()

    assert max(len(batch) for batch in run(body).batches) == 16
