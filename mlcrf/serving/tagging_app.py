"""The HTTP application of the tagging service."""

import binascii
import io
from pathlib import Path
from typing import Annotated, Any, assert_never

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from PIL import Image as PilImage
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mlcrf.checkpoint import Run
from mlcrf.choices import Api
from mlcrf.errors import MlcrfError
from mlcrf.hints import describe_fault
from mlcrf.images import ImageBytes
from mlcrf.prediction import Prediction, Tagger
from mlcrf.prediction.record import Family
from mlcrf.serving import label_studio, payloads
from mlcrf.serving.monitoring import Limits, Metrics, Watched
from mlcrf.serving.payloads import Answer, Images, Model, Tags, images_up_to
from mlcrf.serving.photoprism import add_photoprism
from mlcrf.serving.service import Item, Service, shown
from mlcrf.version import __version__


def make_app(
    run: Run,
    tagger: Tagger,
    limits: Limits,
    api: Api = Api.MLCRF,
    image_root: Path | None = None,
) -> FastAPI:
    """Make the service of one run; OpenAPI at `/openapi.json`.

    Args:
        tagger: for Label Studio with `information`.
        image_root: folder of Label Studio's files, or None.
    """
    app = FastAPI(
        title="mlcrf",
        summary="Tags images with sets of labels that agree with each other.",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    service = Service(run, tagger, limits)
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
    match api:
        case Api.MLCRF:
            _add_tagging(app, service, most=limits.images)
        case Api.LABEL_STUDIO:
            label_studio.add_label_studio(app, service, most=limits.images, image_root=image_root)
        case Api.PHOTOPRISM:
            add_photoprism(app, service, most=limits.images)
        case _:
            assert_never(api)
    health = label_studio.HEALTH if api is Api.LABEL_STUDIO else {"status": "ok"}
    _add_descriptions(app, run, service.metrics, health)
    return app


def _add_tagging(app: FastAPI, service: Service, *, most: int) -> None:
    async def tags(request: Request, asked: Images) -> Answer:
        """Tag images; one that cannot be read has an error instead of labels."""
        items: list[Item] = []
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


def _add_descriptions(app: FastAPI, run: Run, metrics: Metrics, reply: dict[str, str]) -> None:
    @app.get("/model")
    async def model() -> Model:
        """Describe the model."""
        return Model(
            model=run.digest,
            mlcrf=__version__,
            backbone=run.backbone_spec.title,
            inference=run.make_inference().name,
            labels=list(run.labels),
            rules=run.rules.lines(run.labels.names),
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Report that the service is running, also under full load."""
        return reply

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Return counts and times in Prometheus format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def warm_up(tagger: Tagger) -> None:
    """Compile the network and prepare the inference now rather than at the first request."""
    stream = io.BytesIO()
    PilImage.new("RGB", (64, 64)).save(stream, "PNG")
    tagger.predict_contents([stream.getvalue()])


def _reasons(error: RequestValidationError) -> list[dict[str, Any]]:
    """Return errors and their places without the input, which may be long or not JSON."""
    return [
        {
            "loc": [shown(part) for part in one["loc"]],
            "msg": shown(describe_fault(one)),
            "type": one["type"],
        }
        for one in error.errors()[:10]
    ]


def _parsed(known: str) -> dict[str, bool]:
    told = {}
    for part in filter(None, known.split(",")):
        name, sign, value = part.rpartition("=")
        if not sign or value.strip() not in ("0", "1"):
            raise HTTPException(422, f"known: {shown(part.strip())}: expected label=1 or label=0")
        told[name.strip()] = value.strip() == "1"
    return told


def _said(name: str, one: Prediction, run: Run) -> Tags:
    scores = (one.marginals, one.independent)
    p, independent = (dict(zip(run.labels, values, strict=False)) for values in scores)
    return Tags(
        name=name,
        labels=list(one.labels),
        abstained=list(one.abstained),
        p=p,
        independent=independent,
        family=None if one.family is None else _family(one.family),
        error=one.error or None,
    )


def _family(one: Family) -> payloads.Family:
    return payloads.Family(
        present=list(one.present), open=list(one.open), sets=one.sets, exact=one.is_exact
    )
