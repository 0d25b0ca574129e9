"""The page's server: what it gives, what it refuses, and that markup stays text."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.errors import DatabaseError, DataError
from mlcrf.review import safety
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.launch import start_review
from mlcrf.review.photos import find_photos
from mlcrf.review.review_app import _PAGE
from mlcrf.review.safety import Guard, Hosts
from mlcrf.review.session import Review
from mlcrf.rules import Rules
from tests.making import make_potentials
from tests.review.conftest import LABELS, make_folder, make_page, new_request
from tests.review.test_session import start as start_drawn

HOME = "http://127.0.0.1:8000"
OWN = {"Origin": HOME}
MARKUP = "<img src=x onerror=alert(1)> \"'\n\udcff.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = make_folder(tmp_path / "photos", ["a.png", "b/c.png", MARKUP, "copy.png"])
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def review(photos: Path, small_run: Path, tmp_path: Path) -> Iterator[Review]:
    run = load_run(small_run)
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    session, notes = start_review(photos, run, database, extractor)
    assert len(session.photos) == 3 == len(session.features)
    assert any("broken.jpg: cannot be read as an image" in note for note in notes)
    assert "images that are copies of others and are shown once: 1" in notes
    yield session
    database.close()


@pytest.fixture
def client(review: Review) -> Iterator[TestClient]:
    app = make_page(review)
    with TestClient(app, base_url=HOME) as visitor:
        assert visitor.get("/?token=t0ken").status_code == 200
        yield visitor


def act(**content: object) -> dict[str, object]:
    return {"person": "anna", "request": new_request()} | content


def test_an_answer_through_the_page(client: TestClient) -> None:
    """The reply to an answer has the other tags' new probabilities; undo gives the old ones."""
    number = client.get("/api/photos").json()["photos"][0]["id"]
    before = client.get(f"/api/photos/{number}").json()["photo"]
    assert [one["known"] for one in before["labels"]] == [-1] * len(LABELS)
    sent = act(label="sea", value=1)
    after = client.post(f"/api/photos/{number}/answer", json=sent, headers=OWN).json()
    labels = after["photo"]["labels"]
    assert labels[0]["p"] == 1 and labels[0]["known"] == 1
    assert labels[2]["p"] > before["labels"][2]["p"] + 0.05  # beach
    assert labels[3]["p"] < before["labels"][3]["p"] - 0.05  # indoor
    (vote,) = labels[0]["votes"]
    assert (vote["person"], vote["value"]) == ("anna", 1) and vote["at"].endswith("+00:00")
    again = client.post(f"/api/photos/{number}/answer", json=sent, headers=OWN).json()
    assert again == after and after["progress"]["answers"] == 1
    done = client.post(f"/api/photos/{number}/accept", json=act(), headers=OWN).json()
    assert done["photo"]["state"] == "done" and done["progress"]["done"] == 1
    for _ in range(2):
        back = client.post("/api/undo", json=act(), headers=OWN).json()
    assert back["photo"] == before
    assert client.post("/api/undo", json=act(), headers=OWN).json() == {"photo": None}
    again = client.post("/api/redo", json=act(), headers=OWN).json()["photo"]
    assert [one["known"] for one in again["labels"]] == [1, -1, -1, -1, -1]
    cleared = act(label="sea", value=None)
    cleared = client.post(f"/api/photos/{number}/answer", json=cleared, headers=OWN).json()
    assert cleared["photo"] == before
    assert client.post("/api/redo", json=act(), headers=OWN).json() == {"photo": None}


def test_many_photos_are_answered_at_once(client: TestClient, review: Review) -> None:
    """All or none: one that is not here refuses the act; one undo names all that it concerns."""
    ids = [photo.id for photo in review.photos]

    def send(photos: list[int], others: list[int] | None = None) -> Any:
        sent = act(label="sky", value=1, photos=photos, others=others or [])
        return client.post("/api/answer", json=sent, headers=OWN)

    assert send([*ids, 99]).status_code == 404 and send([]).status_code == 422
    assert send(ids[:1], [99]).status_code == 404
    assert list(review.database.since(0)) == []
    reply = send(ids[:2]).json()
    assert [one["id"] for one in reply["photos"]] == ids[:2]
    assert {one["state"] for one in reply["photos"]} == {"begun"}
    undone = client.post("/api/undo", json=act(), headers=OWN).json()
    assert {one["id"] for one in undone["photos"]} == set(ids[:2])
    assert undone["progress"]["answers"] == 0


def test_tags_through_the_page(client: TestClient) -> None:
    """Added, answered, renamed; a name that is taken and a tag that is gone are refused."""
    before = client.get("/api/progress").json()["tags"]
    added = client.post("/api/tag", json=act(name="Oma"), headers=OWN).json()
    answers = {"yes": 0, "no": 0}
    assert added["tags"][-1] == {
        "key": "Oma",
        "name": "Oma",
        "title": "Oma",
        "answers": answers,
        "quality": None,
    }
    assert added["progress"]["tags"] > before
    sent = act(label="Oma", value=1)
    photo = client.post("/api/photos/1/answer", json=sent, headers=OWN).json()["photo"]
    assert photo["labels"][-1]["known"] == 1
    assert client.get("/api/photos/2").json()["photo"]["labels"][-1]["p"] is None
    listed = client.get("/api/photos?label=Oma&order=likely").json()["photos"]
    assert [(one["p"], one["answer"]) for one in listed] == [(None, None), (None, None), (1, 1)]
    assert client.get("/api/tags").json()["tags"][-1]["answers"] == {"yes": 1, "no": 0}
    for content, status in (
        ({"name": "oma"}, 422),
        ({"name": "a;b"}, 422),
        ({}, 404),
        ({"key": "none", "name": "x"}, 404),
        ({"key": "Oma", "into": "none"}, 404),
    ):
        reply = client.post("/api/tag", json=act(**content), headers=OWN)
        assert reply.status_code == status and reply.json()["error"], content


def test_why_through_the_page(photos: Path, small_run: Path, tmp_path: Path) -> None:
    """Parts by tag key, or the tags that settle it; what has no reasons is refused."""
    run = load_run(small_run)
    run.crf.rules = Rules(((LABELS.index("beach"), LABELS.index("sea")),))
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    review, _ = start_review(photos, run, database, extractor)
    app = make_page(review)
    with TestClient(app, base_url=HOME) as visitor:
        visitor.get("/?token=t0ken")
        reasons = visitor.get("/api/photos/1/why?label=sky").json()
        assert reasons["parts"][0]["kind"] == "image" and reasons["settled_by"] == []
        assert {one["label"] for one in reasons["parts"][1:]} >= {"sea", "indoor"}
        whole = sum(one["log_odds"] for one in reasons["parts"])
        assert whole == pytest.approx(reasons["log_odds"], abs=1e-9)
        assert reasons["map"] is None and "tiny: its features are not" in reasons["no_map"]
        visitor.post("/api/photos/1/answer", json=act(label="beach", value=1), headers=OWN)
        settled = visitor.get("/api/photos/1/why?label=sea").json()
        assert settled["log_odds"] is None and settled["parts"] == []
        assert (settled["p"], settled["settled_by"]) == (1, ["beach"])
        visitor.post("/api/tag", json=act(name="Oma"), headers=OWN)
        for asked in ("1/why?label=Oma", "1/why", "99/why?label=sky"):
            reply = visitor.get(f"/api/photos/{asked}")
            assert reply.status_code == 404 and reply.json()["error"], asked
    database.close()


def test_all_photos_of_a_folder_are_answered_at_once(tmp_path: Path) -> None:
    """A request may name each photo once, and hold little more."""
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    review = start_drawn(database, make_potentials(2500, 5))
    ids = [photo.id for photo in review.photos]
    with TestClient(make_page(review), base_url=HOME) as visitor:
        visitor.get("/?token=t0ken")
        sent = act(label="sky", value=0, photos=ids)
        reply = visitor.post("/api/answer", json=sent, headers=OWN)
        assert reply.status_code == 200
        assert [one["id"] for one in reply.json()["photos"]] == ids
        assert reply.json()["progress"]["answers"] == 2500
        undone = visitor.post("/api/undo", json=act(), headers=OWN).json()
        assert sorted(one["id"] for one in undone["photos"]) == ids
        redone = visitor.post("/api/redo", json=act(), headers=OWN).json()
        assert redone["progress"]["answers"] == 2500
        large = act(label="sky", value=0, photos=ids * 5)
        assert visitor.post("/api/answer", json=large, headers=OWN).status_code == 413
    assert len(list(database.since(0))) == 3 * 2500
    database.close()


def test_lists_are_filtered_and_cut(client: TestClient) -> None:
    """By name and state, with the number of all; a wrong filter is refused."""
    whole = client.get("/api/photos?order=name").json()
    names = [one["name"] for one in whole["photos"]]
    assert whole["total"] == 3 and names == sorted(names)
    part = client.get("/api/photos?order=name&offset=1&limit=1").json()
    assert part["photos"] == whole["photos"][1:2] and part["total"] == 3
    assert client.get("/api/photos?name=B%2FC").json()["total"] == 1
    assert client.get("/api/photos?folder=b").json()["total"] == 1
    assert client.get("/api/photos?folder=a").json()["total"] == 0
    assert len(client.get("/api/photos?limit=1000000000").json()["photos"]) == 3
    alike = client.get("/api/photos?order=like&like=2").json()["photos"]
    assert alike[0]["id"] == 2 and "p" not in alike[0]
    sure = [
        client.get(f"/api/photos?label=sea&part={part}&order=likely").json()["total"]
        for part in ("sure", "likely", "uncertain", "unlikely", "answered")
    ]
    assert sum(sure) == 3
    assert client.get("/api/photos?state=done").json()["total"] == 0
    for wrong in (
        "state=x",
        "order=x",
        "label=x",
        "part=sure",
        "label=sea&part=x",
        "order=like",
        "order=like&like=99",
        "order=like&like=x",
        "limit=-1",
        "limit=x",
        "offset=-1",
    ):
        assert client.get(f"/api/photos?{wrong}").status_code == 422, wrong


def test_copies_are_pixels_of_listed_photos(client: TestClient, review: Review) -> None:
    """By number alone; JPEG without metadata; gone and never listed are 404."""
    reply = client.get("/photos/1/small.jpg")
    assert reply.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(reply.content)).size == (48, 36)
    for path in (
        "/photos/0/small.jpg",
        "/photos/9/small.jpg",
        "/photos/1/huge.jpg",
        "/photos/-1/small.jpg",
        "/photos/secret.txt/small.jpg",
        "/photos/..%2f..%2fsecret.txt",
        "/static/..%2fapp.py",
        "/static/page.html",
        "/secret.txt",
    ):
        assert client.get(path).status_code == 404, path
    Path(review.photos[0].image.name).unlink()
    assert client.get("/photos/1/large.jpg").status_code == 404
    assert client.get("/photos/1/small.jpg").status_code == 200  # kept


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"label": 0}', 422),
        (json.dumps(act(request="0" * 32, label="sea", value=2)).encode(), 422),
        (json.dumps(act(request="0" * 32, label=0, value="x")).encode(), 422),
        (json.dumps(act(request="0" * 32, label="none", value=1)).encode(), 404),
        (json.dumps(act(request="0" * 32, label="sea", value=1, person=" ")).encode(), 422),
        (json.dumps(act(request="0" * 32, label="sea", value=1, person="x" * 61)).encode(), 422),
        (json.dumps(act(request="0" * 32, label="sea", value=1, person="a\nb")).encode(), 422),
        (json.dumps(act(request="0" * 32, label="sea", value=1, person="a\0b")).encode(), 422),
        (json.dumps(act(label="sea", value=1, request="'; DROP TABLE")).encode(), 422),
        (json.dumps(act(request="0" * 32, label="sea", value=1, more=1)).encode(), 422),
        (b"x" * 20_000, 413),
    ],
)
def test_answers_that_are_none(
    client: TestClient, review: Review, content: bytes, status: int
) -> None:
    """Refused with a line that says why, and nothing is written."""
    headers = OWN | {"Content-Type": "application/json"}
    reply = client.post("/api/photos/1/answer", content=content, headers=headers)
    assert reply.status_code == status and reply.json()["error"]
    assert list(review.database.since(0)) == []


def test_strangers_are_kept_out(client: TestClient, review: Review) -> None:
    """No token, another host, another origin, none, a form: refused, and nothing is written."""
    stranger = TestClient(client.app, base_url=HOME)
    for path in ("/", "/api/photos", "/photos/1/small.jpg", "/static/review.js", "/?token=wrong"):
        assert stranger.get(path).status_code == 403, path
    for path in ("/", "/?token=wrong"):
        page = stranger.get(path, headers={"Accept": "text/html,*/*"})
        assert page.status_code == 403 and "<h1>Not this address" in page.text
    assert stranger.get("/health").json()["status"] == "ok"
    sent = act(label="sea", value=1)
    path = "/api/photos/1/answer"
    assert stranger.post(path, json=sent, headers=OWN).status_code == 403
    for origin in ("http://evil.example", "http://127.0.0.1:9", "null", ""):
        assert client.post(path, json=sent, headers={"Origin": origin}).status_code == 403
    assert client.post(path, json=sent).status_code == 403
    assert client.post(path, data={"label": "0"}, headers=OWN).status_code == 415
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/health", headers={"Host": "127.0.0.1.evil.example:8000"}).status_code == 400
    assert client.put(path, json=sent, headers=OWN).status_code == 405
    assert client.get(path).status_code == 405
    assert list(review.database.since(0)) == []


def test_the_token_becomes_a_strict_cookie(review: Review) -> None:
    """And leaves the address; every reply forbids what the page does not need."""
    app = make_page(review)
    client = TestClient(app, base_url=HOME)
    reply = client.get("/?token=t0ken", follow_redirects=False)
    assert reply.status_code == 303 and reply.headers["location"] == "/"
    cookie = reply.headers["set-cookie"].lower()
    assert "mlcrf-review-8000=" in cookie and "httponly" in cookie and "samesite=strict" in cookie
    for path in ("/", "/api/photos", "/health", "/no/such/page", "/photos/1/small.jpg"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/photos").headers["cache-control"] == "no-store"


def test_markup_stays_text(client: TestClient) -> None:
    """Names of files and labels come as JSON or escaped; bytes that are no UTF-8 do no harm."""
    page = client.get("/").text
    assert "<b>bird</b>" not in page and r"\u003cb\u003ebird" in page
    assert "http://" not in page and "https://" not in page
    names = [one["name"] for one in client.get("/api/photos").json()["photos"]]
    assert "<img src=x onerror=alert(1)> \"'\n\ufffd.png" in names
    scripts = sorted(path.stem for path in _PAGE.glob("*.js"))
    assert "review" in scripts
    for name in scripts:
        script = client.get(f"/static/{name}.js").text
        assert not any(one in script for one in ("innerHTML", "insertAdjacentHTML", "eval("))
        assert "http" not in script.replace("https", "http").replace("// ", "")


def test_a_database_out_of_reach_is_said_and_nothing_is_half_done(
    client: TestClient, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the reason; afterwards the photo stands as before."""
    before = client.get("/api/photos/1").json()

    def out_of_reach(*_: object, **__: object) -> Any:
        raise DatabaseError("tags: the answer was not saved: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(review.database, "add_many", out_of_reach)
        patch.setattr(review.database, "ping", out_of_reach)
        reply = client.post("/api/photos/1/answer", json=act(label="sea", value=1), headers=OWN)
        assert reply.status_code == 503 and "disk full" in reply.json()["error"]
        assert client.get("/health").status_code == 503
    assert client.get("/api/photos/1").json() == before


@pytest.mark.parametrize(
    ("bound", "header", "allowed"),
    [
        ("127.0.0.1", "localhost:8000", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "192.168.1.5:8000", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "evil.example:8000", False),
        ("0.0.0.0", "192.168.1.5:8000", True),
        ("0.0.0.0", "[fe80::1]:8000", True),
        ("0.0.0.0", "evil.example:8000", False),
        ("photos.home", "Photos.home:8000", True),
    ],
)
def test_hosts(bound: str, header: str, allowed: bool) -> None:
    """A name that somebody else may point here is refused; numbers cannot be pointed."""
    assert Hosts(bound).allow(header) is allowed


def test_a_request_that_trickles_in_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """408 once the time is over, before the app has heard of it."""
    monkeypatch.setattr(safety, "_MOST_SECONDS", 0.05)
    sent: list[Any] = []

    async def app(*_: object) -> None:
        raise AssertionError("not reached")

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "scheme": "http", "server": ("localhost", 80)}
    guard = Guard(app, token="t", hosts=Hosts(), cookie="c")
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 300))
    assert sent[0]["status"] == 408


def test_folders_that_hold_nothing(tmp_path: Path, small_run: Path) -> None:
    """No folder, a file, no images, only broken ones: one line each."""
    database = ReviewDatabase(str(tmp_path / "tags.db"))
    empty = tmp_path / "empty"
    with pytest.raises(DataError, match="no such folder"):
        find_photos(empty, database)
    empty.mkdir()
    with pytest.raises(DataError, match="no images found"):
        find_photos(empty, database)
    (empty / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        find_photos(empty / "x.jpg", database)
    run = load_run(small_run)
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    with pytest.raises(DataError, match="none of its images can be read"):
        start_review(empty, run, database, extractor)
    database.close()
