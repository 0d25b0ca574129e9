"""ASGI middleware of the service: limits, reply headers, and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlcrf.errors import SettingsError
from mlcrf.web import HEADERS

TAGGING = frozenset({"/tags", "/tags/image", "/predict", "/api/v1/vision/labels"})
PATHS = TAGGING | {"/model", "/health", "/metrics", "/setup", "/webhook"}
LATER = {"Retry-After": "1"}
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of all requests together.

    Attributes:
        images: images per request.
        megabytes: size of a request.
        batch: images per batch.
        waiting: waiting images; further images are rejected with status 503.
        megabytes_together: size of all requests in progress.

    Raises:
        SettingsError: the limit of one request exceeds the limit of all.
    """

    images: int = 64
    megabytes: int = 64
    batch: int = 64
    waiting: int = 256
    megabytes_together: int = 512

    def __post_init__(self) -> None:
        if self.waiting < self.images:
            raise SettingsError(
                f"--waiting {self.waiting} is less than --images {self.images}: such a request "
                "could never be accepted; change one of them"
            )
        if self.megabytes_together < self.megabytes:
            raise SettingsError(
                f"--megabytes-together {self.megabytes_together} is less than --megabytes "
                f"{self.megabytes}: such a request could never be accepted; change one of them"
            )


class Metrics:
    """Prometheus metrics in their own registry."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Histogram(
            "mlcrf_request_seconds",
            "Time from the request to its reply.",
            ["path", "status"],
            buckets=_SECONDS,
            **make,
        )
        self.images = Counter("mlcrf_images", "Images by outcome.", ["as"], **make)
        self.batches = Histogram("mlcrf_batch_images", "Images per batch.", buckets=_SIZES, **make)
        self.unconverged = Counter(
            "mlcrf_unconverged_images", "Images whose inference did not converge.", **make
        )
        gauge = Gauge("mlcrf_waiting_images", "Waiting images.", **make)
        gauge.set_function(lambda: float(waiting()))


class Watched:
    """Middleware that enforces limits, adds headers and measures times.

    Args:
        full: return whether the queue is full; requests with images are then refused unread.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, requests: Histogram, full: Callable[[], bool]
    ) -> None:
        self._app, self._requests, self._full = app, requests, full
        self._most, self._most_together = (
            number * 2**20 for number in (limits.megabytes, limits.megabytes_together)
        )
        self._too_large = f"more than {limits.megabytes} MB; send several requests"
        self._held = 0  # size of all bodies in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = perf_counter(), 500, 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            more = len(message.get("body", b""))
            size += more
            self._held += more
            if size > self._most:
                raise HTTPException(413, self._too_large)
            if self._held > self._most_together:
                raise HTTPException(503, "too much data is in progress; try again", LATER)
            return message

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self._refusal(scope) or self._app
        try:
            await app(scope, receive_some, send_more)
        finally:
            self._held -= size
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._requests.labels(path, str(status)).observe(perf_counter() - began)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return the reply to a request that is refused unread."""
        length = Headers(scope=scope).get("content-length", "0")
        if int(length) > self._most:  # digits; anything else was refused as invalid HTTP
            return JSONResponse({"detail": self._too_large}, 413)
        if scope["method"] == "POST" and scope["path"] in TAGGING and self._full():
            return JSONResponse({"detail": "too many images are waiting; try again"}, 503, LATER)
        return None
