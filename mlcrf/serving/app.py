"""The service: what may be asked, and what is answered."""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlcrf.checkpoint import Run
from mlcrf.errors import MlcrfError
from mlcrf.prediction import Prediction, Tagger
from mlcrf.prediction.known import with_told
from mlcrf.serving.batching import Batcher, Busy
from mlcrf.version import __version__
from mlcrf.web.headers import HEADERS

_PATHS = frozenset({"/tags", "/tags/picture", "/model", "/health", "/metrics"})
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Known = Annotated[
    dict[str, bool], Field(description="Labels that are known: true present, false absent.")
]


class Picture(BaseModel):
    """A picture to tag."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="The file's bytes in base64.")]
    name: Annotated[str, Field(max_length=1000, description="Given back as it is.")] = ""
    known: Known = {}


class Pictures(BaseModel):
    """Pictures to tag."""

    model_config = ConfigDict(extra="forbid")

    pictures: Annotated[list[Picture], Field(min_length=1)]


class Tags(BaseModel):
    """What is said of a picture: its labels, or why there are none."""

    name: str
    labels: Annotated[list[str], Field(description="Those decided present.")]
    p: Annotated[dict[str, float], Field(description="P(label present) under the CRF.")]
    independent: Annotated[dict[str, float], Field(description="The same without couplings.")]
    error: str | None


class Answer(BaseModel):
    """What is said of the pictures, in their order."""

    model: Annotated[str, Field(description="Digest of the run.")]
    pictures: list[Tags]


class Model(BaseModel):
    """What the service tags with."""

    model: str
    mlcrf: str
    backbone: str
    inference: str
    labels: list[str]
    implications: list[tuple[str, str]]


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for.

    Attributes:
        pictures: of one request.
        megabytes: of one request.
        batch: pictures that are worked on together.
        waiting: pictures that may wait; more are told to come later.
    """

    pictures: int = 64
    megabytes: int = 64
    batch: int = 64
    waiting: int = 256


class _Metrics:
    """Counts in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Histogram(
            "mlcrf_request_seconds",
            "Time from the request to its answer.",
            ["path", "status"],
            buckets=_SECONDS,
            **make,
        )
        self.pictures = Counter("mlcrf_pictures", "Pictures by what came of them.", ["as"], **make)
        self.batches = Histogram(
            "mlcrf_batch_pictures", "Pictures worked on together.", buckets=_SIZES, **make
        )
        gauge = Gauge("mlcrf_waiting_pictures", "Pictures that wait.", **make)
        gauge.set_function(lambda: float(waiting()))


def make_app(run: Run, tagger: Tagger, limits: Limits = Limits()) -> FastAPI:
    """The service of one run; OpenAPI at `/openapi.json`."""
    app = FastAPI(
        title="mlcrf",
        summary="Tags pictures with sets of labels that agree with each other.",
        version=__version__,
        docs_url=None,  # its page would load programs from elsewhere
        redoc_url=None,
    )

    def work(items: list[tuple[bytes, Mapping[str, bool]]]) -> list[Prediction]:
        metrics.batches.observe(len(items))
        contents, known = map(list, zip(*items, strict=True))
        return tagger.predict_contents(contents, known)

    batcher: Batcher[tuple[bytes, Mapping[str, bool]], Prediction] = Batcher(
        work, most=limits.batch, waiting=limits.waiting
    )
    metrics = _Metrics(lambda: batcher.waiting)
    app.router.add_event_handler("shutdown", batcher.close)

    @app.exception_handler(MlcrfError)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    app.add_middleware(_Watched, limits=limits, requests=metrics.requests)

    async def tag(items: list[tuple[bytes, Mapping[str, bool]]]) -> list[Prediction]:
        for _, known in items:
            _check(known, run)
        try:
            found = await batcher(items)
        except Busy:
            raise HTTPException(
                503, f"{batcher.waiting} pictures wait already; try again", {"Retry-After": "1"}
            ) from None
        for one in found:
            metrics.pictures.labels("error" if one.error else "tagged").inc()
        return found

    @app.post("/tags")
    async def tags(asked: Pictures) -> Answer:
        """Tag pictures; one that cannot be read has an error in place of labels."""
        if len(asked.pictures) > limits.pictures:
            raise HTTPException(422, f"more than {limits.pictures} pictures; send several requests")
        items: list[tuple[bytes, Mapping[str, bool]]] = []
        for number, one in enumerate(asked.pictures):
            try:
                items.append((base64.b64decode(one.data, validate=True), one.known))
            except (binascii.Error, ValueError) as error:
                raise HTTPException(422, f"pictures[{number}].data: no base64: {error}") from error
        found = await tag(items)
        names = [one.name for one in asked.pictures]
        said = [_said(name, one, run) for name, one in zip(names, found, strict=True)]
        return Answer(model=run.digest, pictures=said)

    @app.post(
        "/tags/picture",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def tags_of_one(
        request: Request,
        known: Annotated[str, Query(description="Such as `sea=1,indoor=0`.")] = "",
    ) -> Tags:
        """Tag the picture that is the body, as its file is."""
        if not (request.headers.get("content-type") or "").startswith("image/"):
            raise HTTPException(
                415, "expected a picture, with Content-Type: image/jpeg or the like"
            )
        told: dict[str, bool] = {}
        for part in filter(None, known.split(",")):
            name, sign, value = part.rpartition("=")
            if not sign or value.strip() not in ("0", "1"):
                raise HTTPException(422, f"known: {part.strip()}: expected label=1 or label=0")
            told[name.strip()] = value.strip() == "1"
        (found,) = await tag([(await request.body(), told)])
        if found.error:
            raise HTTPException(422, found.error)
        return _said("", found, run)

    @app.get("/model")
    async def model() -> Model:
        """What the service tags with."""
        return Model(
            model=run.digest,
            mlcrf=__version__,
            backbone=run.settings.backbone,
            inference=run.make_inference().name,
            labels=list(run.labels),
            implications=list(run.implications),
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answered however busy the service is."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Counts and times as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def warm_up(tagger: Tagger) -> None:
    """Compile the network and prepare the inference now rather than at the first request."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    tagger.predict_contents([stream.getvalue()])


class _Watched:
    """Limits what comes in, adds headers to what goes out, and notes how long it took."""

    def __init__(self, app: ASGIApp, limits: Limits, requests: Histogram) -> None:
        self._app, self._limits, self._requests = app, limits, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = perf_counter(), 500, 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limits.megabytes * 2**20:
                text = f"more than {self._limits.megabytes} MB; send several requests"
                raise HTTPException(413, text)
            return message

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._app(scope, receive_some, send_more)
        finally:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self._requests.labels(path, str(status)).observe(perf_counter() - began)


def _check(known: Mapping[str, bool], run: Run) -> None:
    try:
        with_told(None, {"picture": known}, run.labels, run.implications)
    except MlcrfError as error:
        reason = str(error).removeprefix("picture: ")
        raise HTTPException(422, f"known: {reason}") from error


def _parsed(known: str) -> dict[str, bool]:
    told = {}
    for part in filter(None, known.split(",")):
        name, sign, value = part.rpartition("=")
        if not sign or value.strip() not in ("0", "1"):
            raise HTTPException(422, f"known: {part.strip()}: expected label=1 or label=0")
        told[name.strip()] = value.strip() == "1"
    return told


def _said(name: str, one: Prediction, run: Run) -> Tags:
    scores = (one.marginals, one.independent)
    p, independent = (dict(zip(run.labels, values, strict=False)) for values in scores)
    return Tags(
        name=name, labels=list(one.labels), p=p, independent=independent, error=one.error or None
    )
