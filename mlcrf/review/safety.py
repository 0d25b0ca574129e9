"""Protect the review: check host, token, origin, size and time; add security headers."""

import asyncio
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlcrf.web import HEADERS, is_loopback

_MOST_BYTES = 2**14  # of a request, before its body and in it
_MOST_SECONDS = 5.0  # time to receive a request
_MOST_AT_ONCE = 256  # concurrent requests; further requests are rejected with 503
_OPEN = "/health"  # the only path without token; also served under full load
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{1,5})?")

_TURNED_AWAY = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mlcrf review</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>Not this address</h1><p>{message}: it stands in the terminal in which mlcrf review runs, and
ends in ?token=...</p>"""


@dataclass(frozen=True)
class Hosts:
    """Host names under which the page may be requested, against DNS rebinding.

    A foreign page can let its own host name point to this machine, to be taken for our page.

    Attributes:
        bound: the address that the server listens on. If it is not a loopback address, numeric
            addresses and this machine's name are allowed too.
    """

    bound: str = "127.0.0.1"

    def allow(self, header: str) -> bool:
        """Return whether a Host header, with or without port, is allowed."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = match[1] or match[2]
        if name.lower() in {"localhost", "127.0.0.1", "::1", self.bound.lower()}:
            return True
        if is_loopback(self.bound):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() == socket.gethostname().lower()
        return True


class Guard:
    """ASGI middleware that lets only authorised requests through and adds headers to replies.

    - The Host header must be one of `hosts`.
    - The cookie must contain the token; it is set by `/?token=...`, and browsers send it to our own
      pages only. `/health` needs none.
    - Requests with changes must come from our own page, by the Origin header, as JSON.
    - Requests by foreign pages are refused, by the Sec-Fetch-Site header; links to our page work.
    - A request must be small and arrive quickly, and the number of concurrent requests is limited.

    It wraps the whole app, so that replies to internal errors have the headers too.

    Args:
        spare_bytes: by which a body may be larger than what comes before it.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Hosts, cookie: str, spare_bytes: int = 0
    ) -> None:
        self._app, self._token, self._hosts, self._cookie = app, token, hosts, cookie
        self._most_bytes = _MOST_BYTES + spare_bytes
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        reply = self._with_headers(send)
        refusal = self._refuse(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, reply)
            return
        try:
            body = await asyncio.wait_for(_read(receive, self._most_bytes), _MOST_SECONDS)
        except TimeoutError:
            late = _error(408, "the request took too long to arrive", {"Connection": "close"})
            await late(scope, receive, reply)
            return
        if body is None:
            await _error(413, f"more than {self._most_bytes} bytes")(scope, receive, reply)
            return
        await self._work(scope, _replay(body, receive), reply)

    async def _work(self, scope: Scope, receive: Receive, reply: Send) -> None:
        if scope["path"] == _OPEN:
            await self._app(scope, receive, reply)
            return
        if self._working >= _MOST_AT_ONCE:
            busy = _error(503, "too many requests at once; try again", {"Retry-After": "2"})
            await busy(scope, receive, reply)
            return
        self._working += 1
        try:
            await self._app(scope, receive, reply)
        finally:
            self._working -= 1

    def _refuse(self, request: Request) -> Response | None:
        # not request.url, which depends on the Host header
        path = request.scope["path"]
        wrong = self._refuse_always(request)
        if wrong is not None or path == _OPEN:
            return wrong
        if request.method == "GET" and path == "/" and "token" in request.query_params:
            return self._admit(request, request.query_params["token"])
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return _turn_away(request, "open the address that mlcrf review printed")
        return _refuse_elsewhere(request, path)

    def _refuse_always(self, request: Request) -> Response | None:
        headers, scope = request.headers, request.scope
        head = [scope["path"].encode(), scope["query_string"], *chain(*headers.raw)]
        if sum(map(len, head)) > _MOST_BYTES:
            return _error(431, f"more than {_MOST_BYTES} bytes before the body")
        if not self._hosts.allow(headers.get("host", "")):
            return _error(400, "this page is not served under that host name")
        if request.method not in ("GET", "HEAD", "POST"):
            return _error(405, "only GET and POST")
        return None

    def _admit(self, request: Request, token: str) -> Response:
        if not self._is_token(token):
            return _turn_away(
                request, "this token is not valid; open the address that mlcrf review printed last"
            )
        reply = RedirectResponse("/", status_code=303)
        reply.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return reply

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _with_headers(self, send: Send) -> Callable[[Message], Awaitable[None]]:
        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return reply


def _refuse_elsewhere(request: Request, path: str) -> Response | None:
    headers = request.headers
    if path != "/" and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return _error(403, "other pages are refused")
    if request.method != "POST":
        return None
    host = headers.get("host", "")
    if headers.get("origin", "") not in (f"http://{host}", f"https://{host}"):
        return _error(403, "answers are accepted from our own page only")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _error(415, "expected JSON")
    return None


def _turn_away(request: Request, message: str) -> Response:
    """Refuse a request without a valid token, by a page if a person would see it."""
    if request.scope["path"] == "/" and "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_TURNED_AWAY.format(message=message.capitalize()), status_code=403)
    return _error(403, message)


async def _read(receive: Receive, most: int) -> bytes | None:
    """Read the whole body; return None if it has more bytes."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)
