"""What the service answers, and what it refuses."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlcrf.choices import EngineName, InferenceName
from mlcrf.errors import MlcrfWarning
from mlcrf.prediction import Tagger
from mlcrf.serving.tagging_app import make_app
from tests.serving.conftest import LIMITS

IMAGE = {"Content-Type": "image/png"}


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_the_same_as_for_files(client: TestClient, tagger: Tagger, photos: list[Path]) -> None:
    """With known labels too; a image that cannot be read is an error in its place."""
    known = {photos[1]: {"sea": True, "indoor": False}}
    wanted = list(tagger.predict(photos[:2], known=known))
    images = [
        {"name": "a", "data": encoded(photos[0])},
        {"data": "aGVsbG8="},
        {"data": encoded(photos[1]), "known": known[photos[1]]},
    ]
    reply = client.post("/tags", json={"images": images}).raise_for_status().json()
    assert reply["model"] == tagger.run.digest
    first, broken, second = reply["images"]
    assert broken == {
        **{"name": "", "labels": [], "abstained": [], "p": {}, "independent": {}},
        "family": None,
        "error": "image: cannot be read as an image: unknown format, or damaged",
    }
    for one, expected in ((first, wanted[0]), (second, wanted[1])):
        assert tuple(one["labels"]) == expected.labels and one["error"] is None
        assert list(one["p"].values()) == pytest.approx(expected.marginals, abs=1e-6)
        assert list(one["independent"].values()) == pytest.approx(expected.independent, abs=1e-6)
        assert list(one["p"]) == list(tagger.labels)
    assert (first["name"], second["p"]["sea"], second["p"]["indoor"]) == ("a", 1, 0)


def test_a_image_as_it_is(client: TestClient, tagger: Tagger, photos: list[Path]) -> None:
    """The body of the request, and known labels in its address."""
    content = photos[0].read_bytes()
    reply = client.post("/tags/image?known=sea=1, indoor=0", content=content, headers=IMAGE)
    (wanted,) = tagger.predict_contents([content], [{"sea": True, "indoor": False}])
    assert tuple(reply.raise_for_status().json()["labels"]) == wanted.labels


def test_no_images(client: TestClient, tagger: Tagger) -> None:
    """The model, health, and a description that names every path; every reply has the headers."""
    model = client.get("/model").json()
    assert model["labels"] == list(tagger.labels) and model["model"] == tagger.run.digest
    assert client.get("/health").json() == {"status": "ok"}
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/tags", "/tags/image", "/model", "/health", "/metrics"}
    assert "image/*" in described["paths"]["/tags/image"]["post"]["requestBody"]["content"]
    for path in ("/health", "/nothing", "/docs"):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/docs").status_code == 404


def test_metrics(client: TestClient, photos: list[Path]) -> None:
    """As Prometheus reads them; addresses that there are not are counted as one."""
    client.post("/tags/image", content=photos[0].read_bytes(), headers=IMAGE)
    client.post("/tags/image", content=b"none", headers=IMAGE)
    for path in ("/a", "/b"):
        client.get(path)
    lines = client.get("/metrics").text.splitlines()
    assert 'mlcrf_images_total{as="tagged"} 1.0' in lines
    assert 'mlcrf_images_total{as="error"} 1.0' in lines
    assert 'mlcrf_request_seconds_count{path="other",status="404"} 2.0' in lines
    assert 'mlcrf_request_seconds_count{path="/tags/image",status="422"} 1.0' in lines
    assert "mlcrf_waiting_images 0.0" in lines and "mlcrf_batch_images_count 2.0" in lines
    assert "mlcrf_unconverged_images_total 0.0" in lines


def test_inference_that_does_not_converge_is_counted(tagger: Tagger, photos: list[Path]) -> None:
    """A warning for the first of them, and a count of all."""
    few = {"inference": InferenceName.MEAN_FIELD, "mean_field_sweeps": 1}
    run = replace(tagger.run, settings=tagger.run.settings.model_copy(update=few))
    hasty = Tagger(run, engine=EngineName.TORCH)
    with (
        pytest.warns(MlcrfWarning, match="had not converged") as told,
        TestClient(make_app(run, hasty, LIMITS)) as client,
    ):
        for photo in photos[:2]:
            client.post("/tags/image", content=photo.read_bytes(), headers=IMAGE)
        lines = client.get("/metrics").text.splitlines()
    assert "mlcrf_unconverged_images_total 2.0" in lines
    assert sum(issubclass(one.category, MlcrfWarning) for one in told) == 1


GOOD = "R0lGODlhAQABAAAAACw="
REFUSED: list[tuple[Any, int, str]] = [
    ({"images": []}, 422, "expected at least one"),
    ({"images": [{"data": GOOD}] * 4}, 422, "more than 3 images; send several requests"),
    ({"images": [{"data": "%"}]}, 422, "images[0].data: not base64"),
    ({"images": [{"data": GOOD, "known": {"see": 1}}]}, 422, "unknown label 'see'"),
    ({"images": [{"data": GOOD, "known": {"sea": 7}}]}, 422, "expected true or false"),
    ({"images": [{"data": GOOD, "nown": {}}]}, 422, "is unknown"),
    ({"images": [{"data": "A" * 2**20}]}, 413, "more than 1 MB"),
    ([], 422, "expected an object"),
]


@pytest.mark.parametrize(("asked", "status", "reason"), REFUSED)
def test_what_is_refused(client: TestClient, asked: Any, status: int, reason: str) -> None:
    """With the reason; the service goes on."""
    reply = client.post("/tags", json=asked)
    assert reply.status_code == status
    assert reason in reply.text
    assert client.get("/health").status_code == 200


def test_what_is_refused_as_a_body(client: TestClient, photos: list[Path]) -> None:
    """No JSON, no image, a image that says it is none, labels that make no sense."""
    content = photos[0].read_bytes()
    cases: list[tuple[str, bytes, dict[str, str], int, str]] = [
        ("/tags", b"{", {}, 422, "JSON decode error"),
        ("/tags/image", b"x", IMAGE, 422, "cannot be read as an image"),
        ("/tags/image", content, {"Content-Type": "text/plain"}, 415, "expected an image"),
        ("/tags/image?known=sea", content, IMAGE, 422, "expected label=1 or label=0"),
        ("/tags/image?known=sea=2", content, IMAGE, 422, "expected label=1 or label=0"),
        ("/tags/image", bytes(2**20 + 1), IMAGE, 413, "more than 1 MB"),
    ]
    for path, body, more, status, reason in cases:
        headers = {"Content-Type": "application/json"} | more
        reply = client.post(path, content=body, headers=headers)
        assert (reply.status_code, reason in reply.text) == (status, True), reply.text
