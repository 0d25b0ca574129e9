"""What does not mean well, or is too much, is refused at once, and the others are served."""

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from mlcrf import web
from mlcrf.cli import app as program
from mlcrf.errors import SettingsError
from mlcrf.prediction import Prediction, Tagger
from mlcrf.serving.monitoring import Limits
from mlcrf.serving.tagging_app import make_app
from tests.serving.conftest import LIMITS

IMAGE = {"Content-Type": "image/png"}
WAIT_S = 300
JSON = {"Content-Type": "application/json"}


@contextmanager
def running(app: FastAPI) -> Iterator[httpx.Client]:
    """The service on a socket, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=web.Connection, log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=WAIT_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


class SlowTagger:
    """A tagger that waits before it says anything, and counts what it was asked."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger, self.run, self.threads = tagger, tagger.run, 1
        self.may, self.begun, self.done = threading.Event(), threading.Event(), 0
        self.unconverged = 0

    def decode(self, image: Any) -> Any:
        return self._tagger.decode(image)

    def predict_decoded(self, images: Any, decoded: list[Any], known: Any) -> list[Prediction]:
        self.begun.set()
        self.may.wait()
        self.done += len(decoded)
        return self._tagger.predict_decoded(images, decoded, known)


def until(true: Any) -> None:
    while not true():
        time.sleep(0.005)


ODD: list[tuple[bytes, int, str]] = [
    (b'{"images": [{"data": NaN}]}', 422, "expected text"),
    (b'{"images": [{"data": "", "known": {"sea": NaN}}]}', 422, "expected true or false"),
    (b'{"images": NaN}', 422, "expected a list"),
    (b'{"images": [{"data": "", "name": "\\ud800"}]}', 422, "unicode"),
    (b'{"images": [{"data": "\\ud800"}]}', 422, "not base64"),
    (b'{"images": [{"data": "\xc3\xa9"}]}', 422, "not base64"),
    (b'{"images": [{"data": "", "known": {"\\ud800": true}}]}', 422, "unknown label"),
    (b'{"images": [{"data": "", "\\ud800": 1}]}', 422, "images"),
    (b'{"images": ["\xff"]}', 400, "parsing the body"),
    (b"[" * 100_000, 400, "parsing the body"),
    (b'{"images": ' + b"1" * 10_000 + b"}", 400, "parsing the body"),
    (b'{"images": [' + b"1," * 100_000 + b"1]}", 422, "more than 3 images"),
    (b'{"images": [{"data": "", "known": {"' + b"a" * 100_000 + b'": true}}]}', 422, "aaa"),
    (b'{"images": [{"data": "", "' + b"a" * 100_000 + b'": true}]}', 422, "aaa"),
]


@pytest.mark.parametrize(("body", "status", "reason"), ODD)
def test_odd_json(client: TestClient, body: bytes, status: int, reason: str) -> None:
    """Is refused in few words; what was sent is not sent back."""
    reply = client.post("/tags", content=body, headers=JSON)
    assert reply.status_code == status and reason in reply.text
    assert len(reply.text) < 2000


def test_odd_names_come_back(client: TestClient, photos: list[Path]) -> None:
    """Whatever signs a name has, JSON gives it back."""
    data = base64.b64encode(photos[0].read_bytes()).decode()
    name = "</script>\u2028\n\0\U0001f30a"
    reply = client.post("/tags", json={"images": [{"name": name, "data": data}]})
    assert reply.raise_for_status().json()["images"][0]["name"] == name


def test_odd_requests(client: TestClient, photos: list[Path]) -> None:
    """Types in capitals are read; labels of no text, no body and bombs have their reason."""
    content = photos[0].read_bytes()
    reply = client.post("/tags/image", content=content, headers={"Content-Type": "IMAGE/PNG"})
    assert reply.status_code == 200
    bomb = io.BytesIO()
    Image.new("L", (9000, 9000)).save(bomb, "PNG")
    cases = [
        ("/tags/image", bomb.getvalue(), "decompression bomb"),
        ("/tags/image", b"", "the file is empty"),
        ("/tags/image?known=%00%ff%ed%a0%80=1", content, "unknown label"),
        (f"/tags/image?known={'a' * 9000}=1", content, "unknown label"),
        (f"/tags/image?known={'a' * 9000}", content, "expected label=1"),
    ]
    for path, body, reason in cases:
        reply = client.post(path, content=body, headers=IMAGE)
        assert reply.status_code == 422 and reason in reply.text and len(reply.text) < 2000


def test_too_much_is_told_to_come_later(tagger: Tagger, photos: list[Path]) -> None:
    """When as many wait as may, more have 503 at once, and /health is well; then it goes on."""
    slow, content = SlowTagger(tagger), photos[0].read_bytes()
    app = make_app(tagger.run, slow, LIMITS)  # type: ignore[arg-type]
    with running(app) as client, ThreadPoolExecutor(8) as pool:

        def ask() -> httpx.Response:
            return httpx.post(
                f"{client.base_url}/tags/image", content=content, headers=IMAGE, timeout=WAIT_S
            )

        try:
            asked = [pool.submit(ask)]
            assert slow.begun.wait(WAIT_S)
            asked += [pool.submit(ask) for _ in range(LIMITS.waiting)]
            full = f"mlcrf_waiting_images {LIMITS.waiting}.0"
            until(lambda: full in client.get("/metrics").text)
            refused = [client.post("/tags/image", content=content, headers=IMAGE)]
            refused.append(client.post("/tags", content=b"{", headers=JSON))  # is not even read
            for reply in refused:
                assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
            assert client.get("/health").status_code == 200
        finally:
            slow.may.set()
        assert [one.result().status_code for one in asked] == [200] * (1 + LIMITS.waiting)
        assert client.post("/tags/image", content=content, headers=IMAGE).status_code == 200


def test_who_hangs_up_is_not_worked_for(tagger: Tagger, photos: list[Path]) -> None:
    """Their place is free again for others, and it is counted."""
    slow, content = SlowTagger(tagger), photos[0].read_bytes()
    with running(make_app(tagger.run, slow, LIMITS)) as client:  # type: ignore[arg-type]
        address = (client.base_url.host, client.base_url.port or 0)
        head = "POST /tags/image HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        try:
            with ExitStack() as stack:
                for number in range(4):
                    one = stack.enter_context(socket.create_connection(address))
                    one.sendall(request)
                    assert number or slow.begun.wait(WAIT_S)
                until(lambda: "mlcrf_waiting_images 3.0" in client.get("/metrics").text)
            gone = 'mlcrf_request_seconds_count{path="/tags/image",status="499"} 4.0'
            until(lambda: gone in client.get("/metrics").text)
        finally:
            slow.may.set()
        assert client.post("/tags/image", content=content, headers=IMAGE).status_code == 200
        assert slow.done == 2  # what was begun, and the last


def test_bodies_of_all_together(tagger: Tagger, photos: list[Path]) -> None:
    """Slow senders fill no memory: beyond a limit of all together they have 503."""
    with running(make_app(tagger.run, tagger, Limits(3, 2, 2, 4, 3))) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        head = b"POST /tags HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"

        content = photos[0].read_bytes()

        def post() -> httpx.Response:
            return client.post("/tags", content=b" " * 1_000_000, headers=JSON)

        for pause_s in (0.2, 2, 20, 60):  # until what the slow have sent is in
            with ExitStack() as stack:
                for _ in range(2):
                    one = stack.enter_context(socket.create_connection(address))
                    one.sendall(head + b"Content-Length: 2000000\r\n\r\n" + bytes(1_400_000))
                time.sleep(pause_s)
                reply = post()
                small = client.post("/tags/image", content=content, headers=IMAGE)
            if reply.status_code == 503:
                break
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert small.status_code == 200

        until(lambda: post().status_code == 422)  # who has gone holds nothing


def test_a_length_that_is_too_large_is_not_waited_for(tagger: Tagger) -> None:
    """It is refused by its head alone."""
    with running(make_app(tagger.run, tagger, LIMITS)) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=WAIT_S) as one:
            head = b"POST /tags HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            one.sendall(head + b"Content-Length: 9999999999\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_silent_connections_keep_nobody_out(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is let in for the one that has been silent longest; who is busy stays."""
    monkeypatch.setattr(web, "MOST", 10)
    monkeypatch.setattr(web, "_NEXT_S", 2 * WAIT_S)  # none is cut for its silence alone
    with running(make_app(tagger.run, tagger, LIMITS)) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with ExitStack() as stack:
            busy = stack.enter_context(socket.create_connection(address, timeout=WAIT_S))
            head = b"POST /tags HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            busy.sendall(head + b"Content-Length: 2\r\n\r\n")
            for _ in range(3):
                assert client.get("/health").status_code == 200  # so that the head has been read
            silent = [
                stack.enter_context(socket.create_connection(address, timeout=WAIT_S))
                for _ in range(30)
            ]
            # on a connection of its own: the client's has been silent longest, and may be cut
            assert httpx.get(client.base_url.join("/health"), timeout=WAIT_S).status_code == 200
            assert silent[0].recv(1) == b""
            silent[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert silent[-1].recv(15) == b"HTTP/1.1 200 OK"
            busy.sendall(b"{}")
            assert busy.recv(12) == b"HTTP/1.1 422"


def test_a_reply_is_not_held_back(tagger: Tagger) -> None:
    """A reply's body does not wait for its head to be acknowledged, which takes 40 ms.

    The first replies of a connection are acknowledged at once in any case.
    """
    with running(make_app(tagger.run, tagger, LIMITS)) as client:
        for _ in range(100):
            client.get("/health")
        at_once = 0
        while at_once < 20:
            began = time.perf_counter()
            client.get("/health")
            at_once += time.perf_counter() - began < 0.03


def test_limits_that_no_request_could_meet() -> None:
    """One request may not be allowed more than all together."""
    for words in (
        ["--waiting", "10"],
        ["--megabytes-together", "10"],
    ):
        result = CliRunner().invoke(program, ["serve", *words])
        assert isinstance(result.exception, SettingsError)
        assert f"{words[0]} 10 is less than --" in str(result.exception)


def test_one_who_asks_for_much_takes_turns() -> None:
    """Images of a request with many are decoded in turn with those of others."""
    from mlcrf.serving.batching import Batcher

    begun: list[str] = []
    may = threading.Event()

    def prepare(name: str) -> str:
        begun.append(name)
        may.wait()
        return name

    async def body() -> None:
        many = asyncio.create_task(batcher([f"many {at}" for at in range(5)]))
        while not begun:
            await asyncio.sleep(0.001)
        one = asyncio.create_task(batcher(["one"]))
        while batcher.waiting < 6:
            await asyncio.sleep(0.001)
        may.set()
        assert await one == ["one"] and len(await many) == 5

    batcher = Batcher(prepare, list, threads=1, most=8, waiting=8)
    try:
        asyncio.run(body())
    finally:
        batcher.close()
    assert begun == ["many 0", "many 1", "one", "many 2", "many 3", "many 4"]
