"""The HTTP application of the tagging service."""

import asyncio
import binascii
import io
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from PIL import Image as PilImage
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mlcrf.backbones.extractor import Decoded
from mlcrf.checkpoint import Run
from mlcrf.errors import DataError, MlcrfError
from mlcrf.hints import describe_fault
from mlcrf.images import ImageBytes
from mlcrf.prediction import Prediction, Tagger
from mlcrf.prediction.known import with_told
from mlcrf.serving.batching import Batcher, Busy
from mlcrf.serving.monitoring import LATER, Limits, Metrics, Watched
from mlcrf.serving.payloads import Answer, Images, Model, Tags, images_up_to
from mlcrf.version import __version__

_GONE = 499  # status for metrics if the client has disconnected, as in nginx
_SHOWN = 200  # characters of the input that a message repeats

_Item = tuple[ImageBytes, Mapping[str, bool]]
_Decoded = tuple[ImageBytes, Decoded | DataError, Mapping[str, bool]]


class _Service:
    """The queue, batches and metrics of the tagging paths."""

    def __init__(self, run: Run, tagger: Tagger, limits: Limits) -> None:
        self.run, self._tagger = run, tagger
        self.batcher = Batcher(
            self._prepare,
            self._work,
            threads=tagger.threads,
            most=limits.batch,
            waiting=limits.waiting,
        )
        self.metrics = Metrics(lambda: self.batcher.waiting)

    def _prepare(self, item: _Item) -> _Decoded:
        return item[0], self._tagger.decode(item[0]), item[1]

    def _work(self, items: list[_Decoded]) -> list[Prediction]:
        self.metrics.batches.observe(len(items))
        before = self._tagger.unconverged
        found = self._tagger.predict_decoded(*map(list, zip(*items, strict=True)))
        self.metrics.unconverged.inc(self._tagger.unconverged - before)
        return found

    async def tag(self, request: Request, items: list[_Item]) -> list[Prediction]:
        """Tag images, unless the client disconnects first.

        Raises:
            HTTPException: known labels are wrong, or too many images are waiting.
        """
        for _, known in items:
            _check(known, self.run)
        work = asyncio.ensure_future(self.batcher(items))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise HTTPException(_GONE, "the client has disconnected")
            found = work.result()
        except Busy:
            raise HTTPException(
                503, f"{self.batcher.waiting} images are waiting; try again", LATER
            ) from None
        finally:
            work.cancel()
            gone.cancel()
        for one in found:
            self.metrics.images.labels("error" if one.error else "tagged").inc()
        return found


def make_app(run: Run, tagger: Tagger, limits: Limits) -> FastAPI:
    """Make the service of one run; OpenAPI at `/openapi.json`."""
    app = FastAPI(
        title="mlcrf",
        summary="Tags images with sets of labels that agree with each other.",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    service = _Service(run, tagger, limits)
    batcher, requests = service.batcher, service.metrics.requests
    app.router.add_event_handler("shutdown", batcher.close)

    @app.exception_handler(MlcrfError)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"detail": _reasons(error)}, 422)

    app.add_middleware(Watched, limits=limits, requests=requests, full=lambda: batcher.full)
    _add_tagging(app, service, most=limits.images)
    _add_descriptions(app, run, service.metrics)
    return app


def _add_tagging(app: FastAPI, service: _Service, *, most: int) -> None:
    async def tags(request: Request, asked: Images) -> Answer:
        """Tag images; one that cannot be read has an error instead of labels."""
        items: list[_Item] = []
        for number, one in enumerate(asked.images):
            try:
                content = binascii.a2b_base64(one.data, strict_mode=True)
            except (binascii.Error, ValueError) as error:
                raise HTTPException(422, f"images[{number}].data: not base64: {error}") from error
            items.append((ImageBytes("image", content), one.known))
        found = await service.tag(request, items)
        names = [one.name for one in asked.images]
        said = [_said(name, one, service.run) for name, one in zip(names, found, strict=True)]
        return Answer(model=service.run.digest, images=said)

    tags.__annotations__["asked"] = images_up_to(most)  # FastAPI validates by it
    app.post("/tags")(tags)

    body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post("/tags/image", openapi_extra={"requestBody": {"required": True, **body}})
    async def tags_of_one(
        request: Request,
        known: Annotated[str, Query(description="Such as `sea=1,indoor=0`.")] = "",
    ) -> Tags:
        """Tag the image file in the body."""
        if not request.headers.get("content-type", "").lower().startswith("image/"):
            raise HTTPException(415, "expected an image, with Content-Type: image/jpeg or the like")
        image = ImageBytes("image", await request.body())
        (found,) = await service.tag(request, [(image, _parsed(known))])
        if found.error:
            raise HTTPException(422, found.error)
        return _said("", found, service.run)


def _add_descriptions(app: FastAPI, run: Run, metrics: Metrics) -> None:
    @app.get("/model")
    async def model() -> Model:
        """Describe the model."""
        return Model(
            model=run.digest,
            mlcrf=__version__,
            backbone=run.settings.backbone,
            inference=run.make_inference().name,
            labels=list(run.labels),
            implications=list(run.implications.names(run.labels)),
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Report that the service is running, also under full load."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Return counts and times in Prometheus format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def warm_up(tagger: Tagger) -> None:
    """Compile the network and prepare the inference now rather than at the first request."""
    stream = io.BytesIO()
    PilImage.new("RGB", (64, 64)).save(stream, "PNG")
    tagger.predict_contents([stream.getvalue()])


async def _gone(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _reasons(error: RequestValidationError) -> list[dict[str, Any]]:
    """Return errors and their places without the input, which may be long or not JSON."""
    return [
        {
            "loc": [_shown(part) for part in one["loc"]],
            "msg": _shown(describe_fault(one)),
            "type": one["type"],
        }
        for one in error.errors()[:10]
    ]


def _shown(value: str | int) -> str | int:
    """Return part of an error, shortened and encodable."""
    if isinstance(value, int):
        return value
    return value[:_SHOWN].encode(errors="backslashreplace").decode()


def _check(known: Mapping[str, bool], run: Run) -> None:
    if not known:
        return
    try:
        with_told(None, {"image": known}, run.labels, run.implications)
    except MlcrfError as error:
        reason = error.reason if isinstance(error, DataError) else str(error)
        raise HTTPException(422, f"known: {_shown(reason)}") from error


def _parsed(known: str) -> dict[str, bool]:
    told = {}
    for part in filter(None, known.split(",")):
        name, sign, value = part.rpartition("=")
        if not sign or value.strip() not in ("0", "1"):
            raise HTTPException(422, f"known: {_shown(part.strip())}: expected label=1 or label=0")
        told[name.strip()] = value.strip() == "1"
    return told


def _said(name: str, one: Prediction, run: Run) -> Tags:
    scores = (one.marginals, one.independent)
    p, independent = (dict(zip(run.labels, values, strict=False)) for values in scores)
    return Tags(
        name=name, labels=list(one.labels), p=p, independent=independent, error=one.error or None
    )
