"""The service as PhotoPrism's external vision service: labels of a photo.

Source: https://docs.photoprism.app/developer-guide/vision/service/setup; internal/ai/vision
(api_request.go, api_response.go, labels.go) of the repository photoprism/photoprism, and
service/app.py of photoprism/photoprism-vision.
"""

from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from mlcrf.errors import DataError
from mlcrf.prediction import Prediction
from mlcrf.serving.addresses import image_in
from mlcrf.serving.service import Item, Service, shown


class Photo(BaseModel):
    """A photo to label; options for language models are not used."""

    id: str = ""
    url: str = ""
    images: Annotated[
        list[str], Field(description="Pictures of one photo, each a `data:` URL in base64.")
    ] = []


class Label(BaseModel):
    """A label of a photo."""

    name: str
    source: str = "image"  # PhotoPrism's name for labels from the content of an image
    priority: int = 0
    confidence: Annotated[float, Field(description="P(label present) under the CRF.")]
    topicality: Annotated[float, Field(description="The same as the confidence.")]
    categories: Annotated[list[str], Field(description="Labels that it implies.")]


class Labels(BaseModel):
    """The labels of a photo, the most probable first."""

    labels: list[Label]


class VisionModel(BaseModel):
    """The model."""

    type: str = "labels"
    name: str
    version: str


class Vision(BaseModel):
    """The reply to a request."""

    id: str
    code: int = 200
    model: VisionModel
    result: Labels


def add_photoprism(app: FastAPI, service: Service, *, most: int) -> None:
    """Add the path of PhotoPrism's vision service.

    Args:
        most: pictures per request.
    """
    run = service.run
    model = VisionModel(name=run.path.resolve().name, version=run.digest[:12])

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        content = {"code": error.status_code, "error": error.detail, "result": {}}
        return JSONResponse(content, error.status_code, error.headers)

    @app.post("/api/v1/vision/labels")
    async def labels(request: Request, photo: Photo) -> Vision:
        """Label a photo; several pictures of it give the labels of any of them."""
        if photo.url:
            raise HTTPException(
                422, "no images are fetched from the network; set FileScheme: data in vision.yml"
            )
        if not 0 < len(photo.images) <= most:
            raise HTTPException(422, f"images: expected 1 to {most}, got {len(photo.images)}")
        items: list[Item] = []
        for number, url in enumerate(photo.images):
            try:
                items.append((image_in(url), {}))
            except DataError as error:
                raise HTTPException(422, f"images[{number}]: {shown(str(error))}") from error
        found = await service.tag(request, items)
        if wrong := [one.error for one in found if one.error]:
            raise HTTPException(422, wrong[0])
        return Vision(id=photo.id, model=model, result=Labels(labels=_labels(found, service)))


def _labels(found: list[Prediction], service: Service) -> list[Label]:
    run = service.run
    names = run.labels.names
    confidence: dict[str, float] = {}
    for one in found:
        probable = dict(zip(names, one.marginals, strict=True))
        for name in one.labels:
            confidence[name] = max(confidence.get(name, 0.0), probable[name])
    categories: dict[str, list[str]] = {}
    for child, parent in run.rules.names(run.labels):
        categories.setdefault(child, []).append(parent)
    return [
        Label(name=name, confidence=p, topicality=p, categories=categories.get(name, []))
        for name, p in sorted(confidence.items(), key=lambda pair: -pair[1])
    ]
