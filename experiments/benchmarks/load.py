"""Load on an HTTP service from a process of its own, and what it costs itself.

    echo '{"address": ..., "path": ..., "bodies": [...], ...}' | python load.py

Requests are bytes made before, written to keep-alive connections by hand: a client library would
take a tenth of the time that a picture takes, and shares the cores with the service. Closed loop:
so many connections, each asks again once it is answered. Open loop: arrivals are a Poisson process
that waits for no answer, and a latency counts from the arrival that was due, so that a service that
stalls is not asked less. Beside either `/health` is asked ten times a second.
"""

import asyncio
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

_HEALTH_EVERY_S = 0.1
_FRESH_S = 4.0  # a connection that was idle for longer may be cut as it is written to
_PATIENCE_S = 60.0


class Lost(Exception):  # noqa: N818  an outcome that is counted
    """The connection ended before the reply was whole."""


class Client(asyncio.Protocol):
    """A keep-alive connection that asks one thing at a time."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = self._status = 0
        self._reply: asyncio.Future[int] | None = None
        self.lost, self.used = False, perf_counter()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ready to ask."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Gather the reply until it is as long as its head says."""
        self._held += data
        if not self._wanted:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._held[:end]).lower()
            self._status = int(head[9:12])
            length = head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0]
            self._wanted = end + 4 + int(length)
        if len(self._held) >= self._wanted:
            reply, self._reply = self._reply, None
            self._held.clear()
            self._wanted, self.used = 0, perf_counter()
            if reply is not None and not reply.done():
                reply.set_result(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        self.lost = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(Lost())

    async def ask(self, request: bytes) -> int:
        """Status of the reply.

        Raises:
            Lost: there is none.
        """
        if self.lost:
            raise Lost
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


class Load:
    """Requests, connections and outcomes of a load."""

    def __init__(self, plan: dict[str, Any]) -> None:
        address = urlsplit(plan["address"])
        self._host, self._port = address.hostname, address.port
        head = f"POST {plan['path']} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        self._requests = []
        for path in plan["bodies"]:
            body = Path(path).read_bytes()
            more = f"Content-Type: {plan['type']}\r\nContent-Length: {len(body)}\r\n\r\n"
            self._requests.append((head + more).encode() + body)
        self._health = f"GET /health HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
        self._free: list[Client] = []
        self.connections = 0
        self.answers: list[tuple[float, float, str]] = []  # due, seconds, status
        self.health: list[float] = []
        self.late: list[float] = []

    async def connect(self) -> Client:
        """Another connection."""
        self.connections += 1
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, self._host, self._port)
        return client

    async def closed(self, connections: int, until: float) -> None:
        """Each connection asks again once it is answered."""

        async def go_on(at: int) -> None:
            client = await self.connect()
            while perf_counter() < until:
                began = perf_counter()
                await self._ask(client, at, began)
                at += connections
            client.close()

        await asyncio.gather(*(go_on(at) for at in range(connections)))

    async def open(self, rate: float, seed: int, until: float) -> None:
        """Ask as a Poisson process of that rate does; each on a connection that is free."""
        gaps, due, at = random.Random(seed), perf_counter(), 0
        asked: set[asyncio.Task[None]] = set()
        while True:
            due += gaps.expovariate(rate)
            if due > until:
                break
            while (wait := due - perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.late.append(perf_counter() - due)
            task = asyncio.create_task(self._once(at, due))
            asked.add(task)
            task.add_done_callback(asked.discard)
            at += 1
        if asked:
            await asyncio.wait(asked, timeout=_PATIENCE_S)

    async def ask_health(self) -> None:
        """Ask ten times a second, also counted from when it was due."""
        due = perf_counter()
        client = await self.connect()
        while True:
            due += _HEALTH_EVERY_S
            await asyncio.sleep(max(0.0, due - perf_counter()))
            if await client.ask(self._health) != 200:
                raise SystemExit("/health is not well")
            self.health.append(perf_counter() - due)

    async def _once(self, at: int, due: float) -> None:
        client = None
        while self._free and client is None:
            client = self._free.pop()
            if client.lost or perf_counter() - client.used > _FRESH_S:
                client.close()
                client = None
        try:
            client = client or await self.connect()
        except OSError:
            self.answers.append((due, perf_counter() - due, "no connection"))
            return
        await self._ask(client, at, due)
        self._free.append(client)

    async def _ask(self, client: Client, at: int, due: float) -> None:
        try:
            status = str(await client.ask(self._requests[at % len(self._requests)]))
        except Lost:
            status = "cut"
        self.answers.append((due, perf_counter() - due, status))


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Carry a plan out; what came of it after its first seconds, which warm up."""
    load, began = Load(plan), perf_counter()
    first, until = began + plan["warm_s"], began + plan["warm_s"] + plan["seconds"]
    health = asyncio.create_task(load.ask_health())
    if "connections" in plan:
        await load.closed(plan["connections"], until)
    else:
        await load.open(plan["rate"], plan["seed"], until)
    health.cancel()
    with suppress(asyncio.CancelledError):
        await health
    wall = perf_counter() - began
    took = resource.getrusage(resource.RUSAGE_SELF)
    inside: Callable[[float], bool] = lambda at: first <= at < until  # noqa: E731
    ended = [one for one in load.answers if inside(one[0] + one[1])]
    due = [one for one in load.answers if inside(one[0])]
    return {
        "answered_per_s": sum(one[2] == "200" for one in ended) / plan["seconds"],
        "requests": len(due),
        "statuses": Counter(one[2] for one in due),
        "latency_s": quantiles([one[1] for one in due if one[2] == "200"]),
        "refused_s": quantiles([one[1] for one in due if one[2] == "503"]),
        "health_s": quantiles(load.health),
        "late_s": quantiles(load.late),
        "opened": load.connections,
        "generator_cores": (took.ru_utime + took.ru_stime) / wall,
        "generator_ms_per_request": 1e3 * (took.ru_utime + took.ru_stime) / len(load.answers),
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Mean, quantiles (the value that so many of a thousand do not exceed) and largest."""
    if not values:
        return {}
    ordered, count = sorted(values), len(values)
    named = {"p50": 500, "p95": 950, "p99": 990, "p99.9": 999}
    found = {name: ordered[-(-count * share // 1000) - 1] for name, share in named.items()}
    return {"mean": sum(values) / count} | found | {"max": ordered[-1]}


if __name__ == "__main__":
    work: Awaitable[dict[str, Any]] = run(json.load(sys.stdin))
    json.dump(asyncio.run(work), sys.stdout)
