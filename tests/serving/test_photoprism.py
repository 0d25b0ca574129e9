"""The requests that PhotoPrism sends to a vision service, and the replies that it reads.

As in internal/ai/vision (api_request.go, api_response.go, api_client.go) of its repository.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlcrf.choices import Api
from mlcrf.prediction import Tagger
from mlcrf.serving.tagging_app import make_app
from tests.serving.conftest import LIMITS

LABELS = "/api/v1/vision/labels"


@pytest.fixture
def vision(tagger: Tagger) -> Iterator[TestClient]:
    with TestClient(make_app(tagger.run, tagger, LIMITS, Api.PHOTOPRISM)) as client:
        yield client


def request(*photos: Path, **more: Any) -> dict[str, Any]:
    """A request with the fields that PhotoPrism sends for `FileScheme: data`."""
    return {
        "id": "3487da77-246e-4b4d-b1b2-2b5d5ee7b5a8",
        "model": "mlcrf",
        "version": "latest",
        "suffix": "",
        "options": {"temperature": 0.1},
        "stream": False,
        "images": [
            f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
            for photo in photos
        ],
        **more,
    }


def test_labels(vision: TestClient, tagger: Tagger, photos: list[Path]) -> None:
    """The labels decided present with their probabilities; of several pictures, any's."""
    for some in (photos[:1], photos[:3]):
        reply = vision.post(LABELS, json=request(*some)).raise_for_status().json()
        assert reply["id"] == "3487da77-246e-4b4d-b1b2-2b5d5ee7b5a8" and reply["code"] == 200
        assert reply["model"]["type"] == "labels" and reply["model"]["name"]
        assert tagger.run.digest.startswith(reply["model"]["version"])
        wanted: dict[str, float] = {}
        for one in tagger.predict(some):
            probable = dict(zip(tagger.labels, one.marginals, strict=True))
            for name in one.labels:
                wanted[name] = max(wanted.get(name, 0), probable[name])
        labels = reply["result"]["labels"]
        given = {label["name"]: label["confidence"] for label in labels}
        assert given == pytest.approx(wanted, abs=1e-5)
        assert list(given.values()) == sorted(given.values(), reverse=True)
        for label in labels:
            assert set(label) == {
                *("name", "source", "priority", "confidence", "topicality", "categories")
            }
            assert label["source"] == "image" and 0 < label["topicality"] <= 1


def test_what_is_refused(vision: TestClient, photos: list[Path]) -> None:
    """A code and an error as PhotoPrism reads them; nothing is fetched."""
    broken = "data:image/png;base64,aGVsbG8="
    refused = [
        (request(url="https://example.com/a.jpg"), "set FileScheme: data in vision.yml"),
        (request(), "images: expected 1 to 3, got 0"),
        (request(*photos, *photos[:1]), "images: expected 1 to 3, got 4"),
        (request(images=["https://example.com/a.jpg"]), "images[0]: no images are fetched"),
        (request(images=["data:image/png;base64,?"]), "images[0]: data: URL: not base64"),
        (request(images=[broken]), "cannot be read as an image"),
    ]
    for sent, message in refused:
        reply = vision.post(LABELS, json=sent)
        said = reply.json()
        assert reply.status_code == said["code"] == 422 and said["result"] == {}
        assert message in said["error"]
    assert vision.get("/health").json() == {"status": "ok"}
    assert vision.post("/predict", json={}).status_code == 404
