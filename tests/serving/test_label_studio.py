"""The requests that Label Studio sends to an ML backend, and the replies that it expects.

Requests as in https://labelstud.io/guide/ml_create and label_studio/ml/api_connector.py.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
import torch
from starlette.testclient import TestClient
from typer.testing import CliRunner

from mlcrf.checkpoint import load_run
from mlcrf.choices import Api, EngineName
from mlcrf.cli import app
from mlcrf.errors import SettingsError
from mlcrf.inference.questions import answer_information, pair_marginals
from mlcrf.prediction import Tagger
from mlcrf.serving.batching import Batcher
from mlcrf.serving.tagging_app import make_app
from tests.serving.conftest import LIMITS

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Header value="What is in it?"/>
  <Choices name="labels" toName="image" choice="multiple">
    {choices}
  </Choices>
</View>"""


@pytest.fixture(scope="module")
def asking(small_run: Path) -> Tagger:
    return Tagger(load_run(small_run), engine=EngineName.TORCH, information=True)


@pytest.fixture
def backend(asking: Tagger, photos: list[Path]) -> Iterator[TestClient]:
    served = make_app(asking.run, asking, LIMITS, Api.LABEL_STUDIO, photos[0].parent)
    with TestClient(served) as client:
        yield client


def config(*names: str) -> str:
    return CONFIG.format(choices="".join(f"<Choice value={quoteattr(name)}/>" for name in names))


def request(label_config: str, *addresses: str) -> dict[str, Any]:
    """A request with all the fields that Label Studio sends."""
    tasks = [
        {
            "id": number,
            "data": {"image": address},
            "meta": {},
            "created_at": "2024-04-08T14:21:29.542516Z",
            "updated_at": "2024-04-08T14:21:29.542520Z",
            "is_labeled": False,
            "overlap": 1,
            "inner_id": number,
            "project": 1,
            "file_upload": None,
            "annotations": [],
            "predictions": [],
        }
        for number, address in enumerate(addresses, start=1)
    ]
    return {
        "tasks": tasks,
        "model_version": "INITIAL",
        "project": "1.1712586036",
        "label_config": label_config,
        "params": {"login": None, "password": None, "context": None},
    }


def local(path: Path) -> str:
    return f"/data/local-files/?d={path.name}"


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_predict(backend: TestClient, asking: Tagger, photos: list[Path]) -> None:
    """More tasks than are tagged at once: choices as `predict` decides, scores by information."""
    sent = request(
        config(*asking.labels),
        *map(local, photos),
        f"http://ls:8080{local(photos[0])}",
        data_url(photos[1]),
    )
    assert len(sent["tasks"]) > LIMITS.images
    reply = backend.post("/predict", json=sent).raise_for_status().json()
    wanted = list(asking.predict([*photos, photos[0], photos[1]]))
    assert len(reply["results"]) == len(wanted)
    for found, expected in zip(reply["results"], wanted, strict=True):
        (result,) = found["result"]
        assert result == {
            "from_name": "labels",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": list(expected.labels)},
        }
        assert found["score"] == pytest.approx(max(expected.information), abs=1e-5)
        assert found["error"] is None and asking.run.digest[:12] in found["model_version"]


def test_the_information_is_that_of_the_questions(asking: Tagger, photos: list[Path]) -> None:
    """As the review computes it from the potentials; a tagger that was not asked has none."""
    (found,) = asking.predict(photos[:1])
    (features,) = asking._extractor.stream([found.image])
    assert not isinstance(features, Exception)
    potentials = asking.run.crf(torch.from_numpy(features)[None])
    wanted = answer_information(pair_marginals(asking.run.make_inference(), potentials))[0]
    assert found.information == pytest.approx(wanted.tolist(), abs=0.01)
    assert min(found.information) > 0
    plain = Tagger(asking.run, engine=EngineName.TORCH)
    assert next(plain.predict(photos[:1])).information == ()


def test_what_is_asked_for(backend: TestClient, asking: Tagger, photos: list[Path]) -> None:
    """Choices in another case and with an alias; a single choice; the score is of these only."""
    (one,) = asking.predict(photos[:1])
    pairs = zip(one.information, asking.labels, strict=True)
    (_, first), (most, second) = sorted(pairs)[:2]
    assert most < max(one.information)
    asked = (
        '<View><Image name="img" value="$image"/><Text name="t" value="$text"/>'
        '<Choices name="a" toName="img" choice="multiple">'
        f'<Choice value={quoteattr(first.upper())} alias="A"/>'
        '<Choice value="nothing of ours"/></Choices>'
        f'<Choices name="b" toName="img"><Choice value={quoteattr(second)}/></Choices>'
        f'<Choices name="c" toName="t"><Choice value={quoteattr(second)}/></Choices></View>'
    )
    reply = backend.post("/predict", json=request(asked, local(photos[0]))).json()
    (found,) = reply["results"]
    given = {result["from_name"]: result["value"]["choices"] for result in found["result"]}
    assert given == {"a": ["A"] if first in one.labels else [], "b": [second]}
    assert found["score"] == pytest.approx(most, abs=1e-5)
    sent = {
        "project": "1.1712586036",
        "schema": asked,
        "hostname": "http://localhost:8080",
        "access_token": "secret",
        "extra_params": None,
    }
    said = backend.post("/setup", json=sent).raise_for_status().json()
    assert said["not_answered"] == ["nothing of ours"]
    assert said["model_version"] == found["model_version"]


OUTSIDE = {
    "web": ("https://example.com/a.png", "images are not fetched from other places"),
    "store": ("s3://bucket/a.png", "images are not fetched from other places"),
    "file": ("file:///etc/hostname", "images are not fetched from other places"),
    "above": ("/data/local-files/?d=../secret.png", "no such file below --image-root"),
    "above, encoded": ("/data/upload/%2e%2e/%2e%2e/secret.png", "no such file below --image-root"),
    "absolute": ("/data/local-files/?d=/etc/hostname", "no such file below --image-root"),
    "link": ("/data/local-files/?d=link.png", "no such file below --image-root"),
    "folder": ("/data/local-files/?d=", "no such file below --image-root"),
    "zero": ("/data/local-files/?d=a%00.png", "no such file below --image-root"),
    "base64": ("data:image/png;base64,?", "not base64"),
    "plain": ("data:image/png,abc", "expected a data: URL in base64"),
    "no image": ("/data/local-files/?d=words.png", "cannot be read as an image"),
}


def test_what_is_not_read(asking: Tagger, photos: list[Path], tmp_path: Path) -> None:
    """One error for each such task, without a request to anywhere; the others are answered."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(photos[0].read_bytes())
    (root / "words.png").write_text("none")
    (tmp_path / "secret.png").write_bytes(photos[0].read_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    addresses = [address for address, _ in OUTSIDE.values()]
    sent = request(config(*asking.labels), *addresses, "/data/local-files/?d=a.png")
    with TestClient(make_app(asking.run, asking, LIMITS, Api.LABEL_STUDIO, root)) as client:
        *refused, last = client.post("/predict", json=sent).raise_for_status().json()["results"]
    for found, (_, message) in zip(refused, OUTSIDE.values(), strict=True):
        assert message in found["error"] and found["result"] == [] and found["score"] == 0
    assert last["error"] is None
    with TestClient(make_app(asking.run, asking, LIMITS, Api.LABEL_STUDIO)) as client:
        sent = request(config(*asking.labels), "/data/local-files/?d=a.png")
        (found,) = client.post("/predict", json=sent).json()["results"]
    assert "name its folder with --image-root" in found["error"]


INTERFACES = {
    "xml": ("<View", "cannot be read: it is not XML"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "it declares a document type"),
    "empty": ("<View/>", "it has no Choices about an Image"),
    "regions": (
        CONFIG.format(choices="").replace("toName", 'perRegion="true" toName'),
        "no Choices",
    ),
    "several": (
        '<View><Image name="a" value="$a"/><Image name="b" value="$b"/>'
        '<Choices name="c" toName="a"/><Choices name="d" toName="b"/></View>',
        "its Choices are about several images",
    ),
    "others": (CONFIG.format(choices='<Choice value="x"/>'), "interface (x) is a label of the mod"),
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interfaces_that_cannot_be_used(backend: TestClient, name: str) -> None:
    """One line, at the connection and at each request."""
    text, message = INTERFACES[name]
    for path, sent in (("/setup", {"schema": text}), ("/predict", request(text, "a.png"))):
        reply = backend.post(path, json=sent)
        assert reply.status_code == 422 and message in reply.json()["detail"]


@pytest.mark.parametrize("path", ["/predict", "/api/v1/vision/labels"])
def test_a_full_queue(backend: TestClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Is told before the request is read, as for the service's own paths."""
    monkeypatch.setattr(Batcher, "full", True)
    reply = backend.post(path, content=b"{")
    assert reply.status_code == 503 and reply.headers["Retry-After"] == "1"
    assert backend.get("/health").status_code == 200


def test_options(small_run: Path, tmp_path: Path) -> None:
    """A folder that is not there, or that nothing would read."""
    for words, message in (
        (
            ["--as", "label-studio", "--image-root", str(tmp_path / "none")],
            "there is no such folder",
        ),
        (["--as", "photoprism", "--image-root", str(tmp_path)], "needs --as label-studio"),
        (["--image-root", str(tmp_path)], "needs --as label-studio"),
    ):
        result = CliRunner().invoke(app, ["serve", str(small_run), *words])
        assert isinstance(result.exception, SettingsError) and message in str(result.exception)


def test_the_other_paths(backend: TestClient) -> None:
    """As Label Studio checks whether the backend is up, and tells of new annotations."""
    assert backend.get("/health").json() == {"status": "UP", "model_class": "mlcrf"}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}
    assert "mlcrf train" in backend.post("/webhook", json=event).raise_for_status().json()["status"]
    assert backend.post("/tags", json={"images": []}).status_code == 404
    assert backend.post("/predict", json={"tasks": 7}).status_code == 422
    paths = {"/predict", "/setup", "/webhook", "/health", "/model", "/metrics"}
    assert set(backend.get("/openapi.json").json()["paths"]) == paths
