"""The page of `mlcrf review` lets no one in, is not held up, and loses no answer."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from http.client import HTTPException, HTTPResponse
from itertools import product
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlcrf.version import __version__
from tests.reliability.scale import at_length, times
from tests.review import conftest
from tests.review.conftest import LABELS, make_folder, make_page, new_request

small_run = conftest.small_run
SECRET = "not for the page: 8d1f"
NAMES = [f"beach/{at:02}.png" for at in range(20)]
WRITTEN = {"person": "anna", "request": "0" * 32, "label": LABELS[0], "value": 1}


@dataclass(frozen=True)
class Server:
    """The program as it runs."""

    process: "subprocess.Popen[str]"
    port: int
    token: str
    errors: Path
    db: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        return f"mlcrf-review-{self.port}={self.token}"

    def complaints(self) -> str:
        """What it wrote on standard error but for what the walk left out."""
        lines = self.errors.read_text().splitlines()
        return "\n".join(line for line in lines if not line.startswith("note: left out: "))

    def answers(self) -> list[tuple[Any, ...]]:
        """Request, photo, label, value and person of each that is kept, read by others."""
        query = "SELECT request, photo, label, value, person FROM review_answers"
        with closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()


@contextmanager
def serving(folder: Path, run: Path, db: Path, *options: str) -> Iterator[Callable[[], Server]]:
    """The program on a free port; what is called waits until it is there."""
    words = [folder, "--model", run, "--db", f"sqlite:///{db}", "--person", "anna", *options]
    command = [sys.executable, "-m", "mlcrf", "review", *map(str, words)]
    errors = db.with_suffix(".errors")
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--engine", "torch", "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )

    def wait() -> Server:
        assert process.stdout is not None
        lines = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)/\?token=(\S+)", lines)
        assert found, lines + errors.read_text()
        return Server(process, int(found[1]), found[2], errors, db)

    try:
        yield wait
    finally:
        process.kill()
        process.communicate()


def make_photos(place: Path) -> Path:
    """Twenty that are listed, and files beside and among them that are not."""
    folder = make_folder(place / "photos", NAMES)
    make_folder(place, ["outside.png"])
    make_folder(folder, [".hidden.png"])
    for secret in (place / "secret.txt", folder / "secret.txt"):
        secret.write_text(SECRET)
    return folder


class Program:
    """The one program of these tests, started again where it was killed; its database stays."""

    def __init__(self, start: Callable[[], Server]) -> None:
        self._start = start
        self.server = start()

    def start(self) -> Server:
        self.server = self._start()
        return self.server


@pytest.fixture(scope="module")
def program(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    place = tmp_path_factory.mktemp("page")
    folder = make_photos(place)
    with ExitStack() as stack:

        def start() -> Server:
            return stack.enter_context(serving(folder, small_run, place / "tags.db"))()

        yield Program(start)


@pytest.fixture
def server(program: Program) -> Iterator[Server]:
    """The program; whatever was tried, it is alive, complains of nothing and kept no answer."""
    before = program.server.answers()
    yield program.server
    assert program.server.process.poll() is None
    assert program.server.complaints() == ""
    assert program.server.answers() == before


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    body: bytes


def ask(server: Server, *parts: bytes, host: str = "127.0.0.1") -> Reply:
    """The reply to bytes as they are; those of several parts are sent one after the other."""
    with socket.create_connection((host, server.port), timeout=600) as link:
        for at, part in enumerate(parts):
            time.sleep(0.2 if at else 0)
            link.sendall(part)
        reply = HTTPResponse(link, method=parts[0].partition(b" ")[0].decode("latin-1"))
        reply.begin()
        return Reply(reply.status, reply.headers, reply.read())


@dataclass(frozen=True)
class Wanted:
    """A request that is right, or wrong in what differs from one that is."""

    path: str = "/api/photos"
    method: str = "GET"
    host: str | None = None
    cookie: str | None = None
    headers: tuple[str, ...] = ()
    body: bytes | None = None

    def raw(self, server: Server) -> bytes:
        host = server.host if self.host is None else self.host.replace("PORT", str(server.port))
        cookie = server.cookie if self.cookie is None else self.cookie
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", f"Cookie: {cookie}"]
        lines += [one.replace("HOST", server.host) for one in self.headers]
        lines += [] if self.body is None else [f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


OWN = ("Origin: http://HOST", "Content-Type: application/json")
ANSWER = Wanted("/api/photos/1/answer", "POST", headers=OWN, body=json.dumps(WRITTEN).encode())
RIGHT = [
    Wanted("/"),
    Wanted(),
    Wanted("/api/photos/1"),
    Wanted("/api/photos/1/why?label=sky"),
    Wanted("/api/progress"),
    Wanted("/api/tags"),
    Wanted("/api/decided"),
    Wanted("/api/written"),
    Wanted("/photos/1/small.jpg"),
    Wanted("/photos/1/large.jpg"),
    Wanted("/static/review.js"),
    Wanted("/static/server.js"),
    Wanted("/static/review.css"),
    Wanted("/static/icon.svg"),
    ANSWER,
    Wanted("/api/photos/1/accept", "POST", headers=OWN, body=ANSWER.body),
    Wanted("/api/answer", "POST", headers=OWN, body=ANSWER.body),
    Wanted("/api/write", "POST", headers=OWN, body=ANSWER.body),
    Wanted("/api/undo", "POST", headers=OWN, body=ANSWER.body),
]
POSTS = [one for one in RIGHT if one.method == "POST"]


def assert_strict(reply: Reply) -> None:
    """Nothing from elsewhere, nothing to elsewhere, nothing inline, no frame, no guessing."""
    headers = reply.headers
    assert len(headers.get_all("content-security-policy", [])) == 1, reply
    rules = [rule.split() for rule in headers["content-security-policy"].split(";")]
    policy = {name: set(sources) for name, *sources in rules}
    assert len(policy) == len(rules)
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == {"'none'"}
    assert all(sources <= {"'none'", "'self'"} for sources in policy.values()), policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    assert "server" not in headers
    assert "content-type" in headers or not reply.body


def assert_refused(server: Server, reply: Reply, tried: object) -> None:
    """With a reason, and with nothing that is not for everybody."""
    assert 400 <= reply.status < 500, (tried, reply)
    assert_strict(reply)
    told = reply.body
    assert len(told) < 500, (tried, reply)
    for kept in (SECRET, "root:", "beach", "Traceback", "site-packages", ".py", server.token):
        assert kept.encode() not in told, (tried, reply)
    assert b"\xff\xd8\xff" not in told and b"PNG" not in told, (tried, reply)
    assert server.token not in str(reply.headers), (tried, reply)


def try_all(server: Server, tries: list[Wanted]) -> None:
    for tried in tries:
        assert_refused(server, ask(server, tried.raw(server)), tried)
    print(f"{len(tries)} requests refused")


def test_only_this_machine_reaches_it(server: Server) -> None:
    """Told nothing, it listens at 127.0.0.1 alone: at no other address of the machine."""
    assert ask(server, Wanted("/health").raw(server)).status == 200
    others = {"127.0.0.2", "::1"}
    others |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    for other in others - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|assign|unreachable|not supported"):
            ask(server, Wanted("/health").raw(server), host=other)


def test_what_is_right_is_answered_and_strict(server: Server) -> None:
    """Every path gives what it should to the page itself, under headers that forbid the rest."""
    for wanted in RIGHT:
        if wanted.method == "GET":
            reply = ask(server, wanted.raw(server))
            assert reply.status == 200 and reply.body, wanted
            assert_strict(reply)
            kept = "private, max-age=3600" if wanted.path.startswith("/photos") else "no-store"
            assert reply.headers["cache-control"] == kept
    entry = ask(server, Wanted(f"/?token={server.token}", cookie="").raw(server))
    assert entry.status == 303 and entry.headers["location"] == "/"
    assert_strict(entry)
    linked = ask(server, Wanted("/", headers=("Sec-Fetch-Site: same-site",)).raw(server))
    assert linked.status == 200
    own = ask(server, Wanted(headers=("Sec-Fetch-Site: same-origin",)).raw(server))
    assert own.status == 200


def test_health_tells_nothing(server: Server) -> None:
    """To anybody: that it is well, and the version."""
    for cookie in ("", None):
        reply = ask(server, Wanted("/health", cookie=cookie).raw(server))
        assert reply.status == 200
        assert_strict(reply)
        assert json.loads(reply.body) == {"status": "ok", "version": __version__}
    assert ask(server, Wanted("/health", "POST", body=b"").raw(server)).status == 405


def test_who_has_not_the_token_gets_nothing(server: Server) -> None:
    """No token, a wrong one, of any length, part of it, in another place: whatever is asked for."""
    name, token = f"mlcrf-review-{server.port}", server.token
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    wrong = ["", token[:-1], token + "0", token[1:], swapped, token.swapcase(), token * 100, "\xe9"]
    cookies = [f"{name}={one}" for one in wrong] + [
        "",
        f"{name}0={token}",
        f"review={token}",
        token,
    ]
    tries = [replace(one, cookie=cookie) for one, cookie in product(RIGHT, cookies)]
    elsewhere = (f"Authorization: Bearer {token}", f"X-Token: {token}", f"Referer: /?token={token}")
    for one in RIGHT:
        tries.append(replace(one, cookie="", headers=(*one.headers, *elsewhere)))
        tries.append(replace(one, cookie="", path=f"/{one.path}?token={token}"))
        if one.path != "/":
            tries.append(replace(one, cookie="", path=f"{one.path}?token={token}"))
    for query in ("", token[:-1], swapped, f"{token}&token=", "%00" + token, "9" * 9999):
        tries.append(Wanted(f"/?token={query}", cookie=""))
    tries.append(Wanted(f"/?token={token}", "POST", cookie="", body=b""))
    tries.append(Wanted(f"/?token={token}", "HEAD", cookie=""))
    try_all(server, tries)


HOSTS = [
    "evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "localhost.evil.example",
    "127.0.0.1@evil.example", "evil.example@127.0.0.1:PORT", "user:word@127.0.0.1", "0.0.0.0:PORT",
    "192.168.1.5:PORT", "127.0.0.2:PORT", "127.1", "2130706433", "0x7f000001", "017700000001",
    "localhost.", "localhost:PORT:PORT", "localhost:80x", "localhost:/health?",
    "localhost:80/health?", "127.0.0.1:PORT/health?", "127.0.0.1:PORT/health#",
    "localhost:80\\health", "[::1]/health?", "[::1", "[::1]:x", "[::1]evil.example",
    "[evil.example]", "[evil", "::1", "[::ffff:127.0.0.1]",
    "localhost,evil.example", "localhost evil.example", "\xff\xfe", "\xaf", "http://127.0.0.1", "",
    "a" * 9999,
]  # fmt: skip


def test_another_name_leads_nowhere(server: Server) -> None:
    """As after DNS rebinding: who has the token and even for /health, and with the path in it."""
    paths = [Wanted(), Wanted("/health"), ANSWER, Wanted(f"/?token={server.token}", cookie="")]
    try_all(server, [replace(one, host=host) for one, host in product(paths, HOSTS)])
    cookie = f"Cookie: {server.cookie}\r\n\r\n"
    for head in (
        "GET /api/photos HTTP/1.0\r\n",
        "GET /api/photos HTTP/1.1\r\n",
        f"GET /api/photos HTTP/1.1\r\nHost: evil.example\r\nHost: {server.host}\r\n",
        f"GET http://{server.host}/api/photos HTTP/1.1\r\nHost: evil.example\r\n",
        f"GET /api/photos HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: {server.host}\r\n",
    ):
        assert_refused(server, ask(server, (head + cookie).encode()), head)


def test_no_other_page_writes_or_reads(server: Server) -> None:
    """By Origin, by Sec-Fetch-Site, by what a form can send: with the cookie, and yet refused."""
    host = server.host
    tries = []
    for one in RIGHT:
        for site in ("cross-site", "same-site", "x"):
            if one.path != "/":
                tries.append(replace(one, headers=(*one.headers, f"Sec-Fetch-Site: {site}")))
    for origin in (
        "http://evil.example", "null", "", f"http://{host}.evil.example",
        f"http://evil.example/{host}", f"http://{host}@evil.example", "http://127.0.0.1",
        "http://127.0.0.1:1", f"http://{host}/",
        f"http://localhost:{server.port}", f"http://{host} http://evil.example",
        f"file://{host}", host,
    ):  # fmt: skip
        tries += [
            replace(one, headers=(OWN[1], f"Origin: {origin}"))
            for one in RIGHT
            if one.method == "POST"
        ]
    for kind in (
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
        "text/plain; application/json", "application/json2", "application/json, text/plain",
    ):  # fmt: skip
        tries += [
            replace(one, headers=(OWN[0], f"Content-Type: {kind}"))
            for one in RIGHT
            if one.method == "POST"
        ]
    tries += [replace(one, headers=headers) for one in POSTS for headers in ((), OWN[:1], OWN[1:])]
    asking = ("Origin: http://evil.example", "Access-Control-Request-Method: POST")
    tries += [replace(one, method="OPTIONS", headers=asking, body=None) for one in RIGHT]
    try_all(server, tries)


@pytest.mark.timeout(900)
def test_paths_lead_to_listed_photos_alone(server: Server) -> None:
    """Up, absolute, encoded once and twice, with ends that are cut off, ids that are none."""
    starts = [
        "",
        "static/",
        "photos/",
        "photos/0/",
        "photos/0/small.jpg/",
        "api/photos/",
        "static/x/",
    ]
    ups = [
        "../", "..%2f", "%2e%2e/", "%2e%2e%2F", "..\\", "..%5c", "%252e%252e%252f", "....//",
        "..;/", "%c0%ae%c0%ae/", ".%00./", "/", "%2f", "./", "%5c", "\\", "file:///", "~/",
    ]  # fmt: skip
    targets = [
        "secret.txt", "outside.png", ".hidden.png", "photos/secret.txt", "photos/.hidden.png",
        "photos/beach/00.png", "beach/00.png", "etc/passwd", "tags.db", "app.py", "page.html",
        str(server.db), str(Path(__file__)),
    ]  # fmt: skip
    ends = ["", "%00", "%00.jpg", "/small.jpg", ".jpg", "?x=.jpg", "%3f.jpg", "/.", "%20"]
    depths = (1, 2, 3, 8)
    every = list(product(starts, ups, depths, targets, ends))
    chosen = np.random.default_rng(0).permutation(len(every))[: max(200, times(20_000))]
    tries = []
    for at in chosen:
        start, up, depth, target, end = every[at]
        tries.append(Wanted(f"/{start}{up * depth}{target}{end}"))
    for number in (
        "", "-1", "+1", "-0", "0x0", "1e0", "0.0", "1_0", "NaN", "None", "*", "%00", "0%00", "%200",
        "0%20", "0%2f", "0;", "%d9%a0", "%ef%bc%90", "0", "21", "9" * 9, "9" * 10,
        "9" * 19, "9" * 400, "9" * 5000, "0,1", "[0]", "0'--", "beach/00.png", "beach%2f00.png",
        "00.png", "..",
    ):  # fmt: skip
        tries += [Wanted(f"/photos/{number}/{size}.jpg") for size in ("small", "large")]
        tries.append(Wanted(f"/api/photos/{number}" if number else "/api/photos/1/x"))
        tries.append(replace(ANSWER, path=f"/api/photos/{number}/answer"))
        tries.append(Wanted(f"/api/photos/{number}/why?label=sky"))
    for size in ("", "huge", "SMALL", "small.", "small%00", "..%2fsmall", "360", "small.jpg/x"):
        tries.append(Wanted(f"/photos/1/{size}.jpg"))
    for query in ("offset", "limit", "label"):
        tries += [Wanted(f"/api/photos?{query}={one}") for one in ("9" * 5000, "-1", "1e9", "%00")]
    try_all(server, tries)


def test_methods_and_sizes(server: Server) -> None:
    """What is not for a path, what is too large, and what is no HTTP: refused in one line."""
    methods = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "FOO"]
    tries = [replace(one, method=method) for one, method in product(RIGHT, methods)]
    tries += [replace(one, method="GET") for one in POSTS]
    gets = [one for one in RIGHT[1:] if one.method == "GET"]
    tries += [replace(one, method="POST", headers=OWN, body=ANSWER.body) for one in gets]
    large = 17_000
    for one in (ANSWER, replace(ANSWER, cookie="")):
        tries.append(replace(one, body=ANSWER.body + b" " * large))
        tries.append(replace(one, body=b"[" * large))
        tries.append(replace(one, body=None, headers=(*OWN, "Content-Length: -1")))
        tries.append(replace(one, headers=(*OWN, "Content-Length: 5")))
        tries.append(replace(one, headers=(*OWN, "Transfer-Encoding: gzip")))
        tries.append(replace(one, headers=(*OWN, f"X: {'x' * large}")))
        tries.append(replace(one, headers=(*OWN, *[f"X-{at}: x" for at in range(large // 4)])))
        tries.append(replace(one, headers=(*OWN, "no colon")))
        tries.append(replace(one, headers=(*OWN, "X: a\0b")))
        tries.append(replace(one, path=f"/{'x' * large}"))
        tries.append(replace(one, path=f"/?name={'x' * large}"))
    for body in (
        b"[" * 16_000, b'{"label":' * 1_700, b"\xff\xfe", b"\0", b'"\\ud800"', b"NaN",
        b"9" * 16_000, json.dumps(WRITTEN | {"label": int("9" * 4000)}).encode(),
        json.dumps(WRITTEN).replace("anna", "\\ud800").encode(),
        json.dumps(WRITTEN).replace(": 1", ": 1e999").encode(),
    ):  # fmt: skip
        tries.append(replace(ANSWER, body=body))
    try_all(server, tries)
    chunked = replace(ANSWER, headers=(*OWN, "Transfer-Encoding: chunked"), body=None).raw(server)
    stranger = Wanted("/health", "POST", cookie="", headers=("Transfer-Encoding: chunked",))
    for parts in (
        [chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (large, b" " * large)],
        [chunked, b"no size\r\n"],
        [chunked, b"f" * 25 + b"\r\n"],
        [stranger.raw(server), b"no size\r\n"],
        [replace(ANSWER, cookie="", body=b"x" * 9).raw(server), b"and what is no request"],
        [Wanted(host="x", headers=("Transfer-Encoding: chunked",)).raw(server), b"no size\r\n"],
        [b"GET /\r\n\r\n"],
        [b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        [b"\0" * 20_000],
        [b"\r\n" * 10 + b"\xff\r\n\r\n"],
    ):
        assert_refused(server, ask(server, *parts), parts)
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert_refused(server, ask(server, Wanted(cookie="", headers=upgrade).raw(server)), upgrade)


def test_damaged_requests_let_nobody_in(server: Server) -> None:
    """Bytes of a stranger's requests are changed, taken out and put in, at random."""
    rng = np.random.default_rng(0)
    number = max(50, times(5_000))
    for at in range(number):
        raw = bytearray(replace(RIGHT[at % 9], cookie=f"mlcrf-review-{server.port}=").raw(server))
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(0, len(raw) - 4))
            some = rng.integers(0, 256, int(rng.integers(0, 3)), dtype=np.uint8).tobytes()
            raw[place : place + int(rng.integers(0, 3))] = some
        raw[-4:] = b"\r\n\r\n"
        assert_refused(server, ask(server, bytes(raw)), bytes(raw))
    print(f"{number} damaged requests refused")


def test_a_failure_of_ours_is_strict_too() -> None:
    """Where the app itself fails the reply says nothing of it, under the same headers."""
    from starlette.testclient import TestClient

    def fail() -> None:
        raise RuntimeError(SECRET)

    review: Any = SimpleNamespace(photos=(), labels=(), progress=fail)
    app = make_page(review)
    client = TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False)
    reply = client.get("/?token=t0ken", follow_redirects=False)
    assert reply.status_code == 303
    reply = client.get("/api/progress")
    assert reply.status_code == 500 and SECRET not in reply.text
    headers = Message()
    for name, value in reply.headers.items():
        headers[name] = value
    assert_strict(Reply(500, headers, reply.content))


def test_health_does_not_say_where_the_database_is() -> None:
    """503 to strangers, without the name of the database or what is wrong with it."""
    from starlette.testclient import TestClient

    from mlcrf.errors import DatabaseError

    def fail() -> None:
        raise DatabaseError(f"sqlite:////home/anna/tags.db: {SECRET}")

    review: Any = SimpleNamespace(photos=(), labels=(), database=SimpleNamespace(ping=fail))
    app = make_page(review)
    reply = TestClient(app, "http://127.0.0.1:8000").get("/health")
    assert reply.status_code == 503
    assert SECRET not in reply.text and "anna" not in reply.text


async def visit(server: Server, *requests: bytes) -> list[int]:
    """The states of the replies to requests that are sent one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    states = []
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        assert length is not None, head
        await reader.readexactly(int(length[1]))
        states.append(int(head.split()[1]))
    writer.close()
    await writer.wait_closed()
    return states


async def count_answers(server: Server, until: "asyncio.Future[Any]") -> int:
    """Ask for /health over and over on connections of their own, until others are done."""
    health = Wanted("/health", cookie="").raw(server)
    answers = 0
    while not until.done():
        assert await visit(server, health) == [200]
        answers += not until.done()
        await asyncio.sleep(0.05)
    return answers


async def dawdle(server: Server, beginning: bytes, more: bytes, pause_s: float) -> None:
    """Send a byte at a time until one is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    cut = asyncio.ensure_future(reader.read())
    writer.write(beginning)
    while not cut.done():
        await asyncio.wait([cut], timeout=pause_s)
        writer.write(more)
    writer.transport.abort()
    error = cut.exception()
    assert error is None or isinstance(error, ConnectionError)
    # /health is answered, and strangers are refused, at once: they dawdle on after that
    assert error or cut.result()[9:12] in (b"", b"200", b"403", b"408")


def slow_clients(server: Server) -> list[tuple[bytes, bytes]]:
    """What each sends at first and then byte by byte: strangers, and such as have the token."""
    body = replace(ANSWER, body=None, headers=(*OWN, "Content-Length: 9999"))
    return [
        (b"", b""),
        (b"G", b""),
        (b"GET /", b"x"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
        (Wanted("/health", cookie="").raw(server), b"G"),
        (Wanted("/health", cookie="", headers=("Content-Length: 9999",)).raw(server), b"x"),
        (replace(body, cookie="").raw(server), b"x"),
        (body.raw(server), b"x"),
        (replace(body, headers=(*OWN, "Transfer-Encoding: chunked")).raw(server), b"1\r\nx\r\n"),
    ]


@pytest.mark.timeout(900)
def test_the_slow_and_the_many_hold_up_nobody(server: Server) -> None:
    """Two hundred slow clients, then as many ordinary ones at once: others are answered meanwhile.

    The slow are cut off after some seconds. If others had to wait for that, one of them at most
    would be answered before.
    """
    ordinary = [one.raw(server) for one in RIGHT if one.method == "GET"]

    async def together(clients: list[Awaitable[Any]]) -> tuple[list[Any], int]:
        gathered = asyncio.gather(*clients)
        answers = await count_answers(server, gathered)
        return await gathered, answers

    async def run() -> None:
        await visit(server, *ordinary)
        kinds = slow_clients(server)
        slow = [dawdle(server, *kinds[at % len(kinds)], 0.3) for at in range(200)]
        _, answers = await together(slow)
        print(f"200 slow clients: {answers} times /health")
        assert answers > 2
        for _ in range(times(20)):
            many = [visit(server, *np.roll(ordinary, at)) for at in range(200)]
            states, answers = await together(many)
            print(f"200 at once: {answers} times /health")
            assert all(state == 200 for replies in states for state in replies)

    asyncio.run(run())


@at_length
@pytest.mark.timeout(900)
def test_who_takes_no_replies_is_cut_off(server: Server) -> None:
    """Twenty that ask on and on and never read: others are answered meanwhile, and an end."""
    request = Wanted("/static/review.js").raw(server) * 10

    async def deaf() -> None:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(link, ("127.0.0.1", server.port))
        with link, pytest.raises(ConnectionError):
            while True:
                await loop.sock_sendall(link, request)

    async def run() -> None:
        gathered = asyncio.gather(*[deaf() for _ in range(20)])
        answers = await count_answers(server, gathered)
        await gathered
        print(f"20 deaf clients: {answers} times /health")
        assert answers > 2

    asyncio.run(run())


@dataclass
class Crowd:
    """People who answer at once, each sending an answer again until it is acknowledged."""

    server: Server
    acknowledged: set[str] = field(default_factory=set)
    sent_again: int = 0
    _lock: Lock = field(default_factory=Lock)

    def answer(self, photo: int, act: dict[str, Any]) -> None:
        """As the page does: the same request, until the server has said that it is kept."""
        body = json.dumps(act).encode()
        while not self._send(replace(ANSWER, path=f"/api/photos/{photo}/answer", body=body)):
            with self._lock:
                self.sent_again += 1
            time.sleep(0.25)
        with self._lock:
            self.acknowledged.add(act["request"])

    def _send(self, wanted: Wanted) -> bool:
        try:
            reply = ask(self.server, wanted.raw(self.server))
        except (OSError, HTTPException):
            return False
        assert reply.status in (200, 503), reply
        return reply.status == 200


@pytest.mark.timeout(900)
def test_killed_it_loses_and_doubles_no_answer(program: Program) -> None:
    """SIGKILL between and during answers: what was acknowledged is kept, everything once."""
    number, kills = max(150, times(1_000)), times(8)
    before = program.server.answers()
    expected = [
        (new_request(), at % 20 + 1, LABELS[at // 20 % 5], at % 3 - 1, f"p{at // 100}")
        for at in range(number)
    ]
    crowd, unsaid = Crowd(program.server), 0
    with ThreadPoolExecutor(16) as workers, ExitStack() as stack:
        stack.callback(workers.shutdown, cancel_futures=True)  # where the test has failed
        waiting = []
        for request, photo, label, value, person in expected:
            act = {"request": request, "label": label, "value": value, "person": person}
            waiting.append(workers.submit(crowd.answer, photo, act))
        for mark in np.linspace(0, number, kills + 2)[1:-1]:
            while len(crowd.acknowledged) < mark:
                time.sleep(0.002)
            crowd.server.process.kill()
            assert crowd.server.process.wait() == -signal.SIGKILL
            said = set(crowd.acknowledged)
            kept = Counter(row[0] for row in crowd.server.answers())
            assert said <= set(kept) and set(kept.values()) == {1}
            unsaid += len(set(kept) - said)
            assert crowd.server.complaints() == ""
            crowd.server = program.start()
        for one in waiting:
            one.result()
    assert crowd.sent_again >= kills
    assert Counter(crowd.server.answers()) == Counter(expected) + Counter(before)
    print(f"{number} answers, {kills} kills: {crowd.sent_again} sent again, ", end="")
    print(f"{unsaid} of them kept before the kill")
