"""Items that come together are worked on together; none is lost, mixed up or waited for."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mlcrf.serving.batching import Batcher, Busy


class Work:
    """Numbers of texts, doubled once it may; the text "slow" is one only once that may be."""

    def __init__(self) -> None:
        self.may, self.slow = threading.Event(), threading.Event()
        self.batches, self.prepared = list[list[int]](), 0

    def prepare(self, text: str) -> int:
        self.prepared += 1
        if text == "slow":
            self.slow.wait()
            return 0
        return int(text)

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.may.wait()
        if 13 in items:
            raise RuntimeError("unlucky")
        return [2 * item for item in items]

    def batcher(self, threads: int = 1, most: int = 4, waiting: int = 6) -> "Doubles":
        return Batcher(self.prepare, self, threads=threads, most=most, waiting=waiting)


Doubles = Batcher[str, int, int]


def run(body: Callable[[Work, Doubles], Coroutine[Any, Any, None]], **settings: int) -> Work:
    work = Work()
    batcher = work.batcher(**settings)
    try:
        asyncio.run(body(work, batcher))
    finally:
        work.may.set()
        work.slow.set()
        batcher.close()
    return work


async def until(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_what_waits_is_one_batch() -> None:
    """The first alone, the next in turns, and no more at a time than allowed."""

    async def body(work: Work, batcher: Doubles) -> None:
        first = asyncio.create_task(batcher(["1"]))
        await until(lambda: work.batches and not batcher.waiting)
        others = [asyncio.create_task(batcher([str(at), str(at + 10)])) for at in (2, 3, 4)]
        await until(lambda: batcher.full)
        assert batcher.waiting == 6
        with pytest.raises(Busy):
            await batcher(["5"])
        await until(lambda: work.prepared == 7)
        await asyncio.sleep(0.05)  # the last is put where the next batch is taken from
        work.may.set()
        assert await first == [2]
        assert await others[0] == [4, 24]
        for other in others[1:]:
            with pytest.raises(RuntimeError, match="unlucky"):
                await other
        assert await batcher(["7"]) == [14] and batcher.waiting == 0

    assert run(body).batches[:3] == [[1], [2, 3, 4, 12], [13, 14]]


def test_who_has_gone_is_not_worked_for() -> None:
    """A request that is cut off leaves the others as they are."""

    async def body(work: Work, batcher: Doubles) -> None:
        first = asyncio.create_task(batcher(["1"]))
        await until(lambda: work.batches)
        gone, other = asyncio.create_task(batcher(["2"])), asyncio.create_task(batcher(["3"]))
        await until(lambda: work.prepared == 3)
        gone.cancel()
        first.cancel()
        await until(lambda: gone.done() and first.done())
        work.may.set()
        assert await other == [6] and batcher.waiting == 0

    assert run(body).batches == [[1], [3]]


def test_what_takes_long_to_prepare_holds_up_nobody() -> None:
    """As long as a thread is left; it waits, and has its turn."""

    async def body(work: Work, batcher: Doubles) -> None:
        work.may.set()
        slow = asyncio.create_task(batcher(["slow"]))
        await until(lambda: work.prepared)
        assert [await batcher([str(at)]) for at in range(1, 5)] == [[2], [4], [6], [8]]
        assert batcher.waiting == 1 and not slow.done()
        work.slow.set()
        assert await slow == [0] and batcher.waiting == 0

    run(body, threads=2)


def test_what_cannot_be_prepared() -> None:
    """Is an error of its own request alone."""

    async def body(work: Work, batcher: Doubles) -> None:
        work.may.set()
        bad, good = asyncio.create_task(batcher(["1", "x"])), asyncio.create_task(batcher(["2"]))
        with pytest.raises(ValueError, match="invalid literal"):
            await bad
        assert await good == [4]
        await until(lambda: batcher.waiting == 0)

    run(body)


def test_many_at_once() -> None:
    """Each gets its own."""

    async def body(work: Work, batcher: Doubles) -> None:
        work.may.set()
        numbers = [at for at in range(2000) if at != 13]
        found = await asyncio.gather(*(batcher([str(at)]) for at in numbers))
        assert found == [[2 * at] for at in numbers]
        assert batcher.waiting == 0

    done = run(body, threads=3, most=16, waiting=10_000)
    assert 1 < max(len(batch) for batch in done.batches) <= 16
