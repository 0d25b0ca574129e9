"""HTTP serving shared by `review` and `serve`: sockets, time limits, signals, headers."""

import asyncio
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlcrf.errors import SettingsError

# headers of all replies: only our own files, no inline scripts or styles, frames or forms
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

MOST = 512  # connections; systems often allow a process 1024 files
_NEXT_S = 5.0  # time for the head of a request, from the connection or the last reply
_WHOLE_S = 60.0  # time from there until the client has read the reply
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def serve(app: ASGIApp, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; requests that have arrived are answered first.

    Args:
        port: 0 picks a free port.
        announce: called with the address once the server listens.

    Raises:
        SettingsError: cannot listen on the address.
    """
    with listen(host, port) as listener, quiet_signals():
        announce(address_of(host, listener.getsockname()[1]))
        make_server(app, grace_s=30).run(sockets=[listener])


def make_server(
    app: ASGIApp, *, grace_s: int, lifespan: Literal["auto", "off"] = "auto"
) -> uvicorn.Server:
    """Return a server to run with a listening socket; it logs errors only.

    Warnings are about malformed requests from outside and could flood the terminal; the access log
    would show the token in the review's start URL.

    Args:
        grace_s: seconds that open requests get to finish at shutdown.
        lifespan: `off` for an app without start-up and shutdown events.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan=lifespan,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=grace_s,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 picks a free port.

    Raises:
        SettingsError: the address is not of this machine, or the port is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise SettingsError(
            f"--host {host} --port {port}: cannot listen: {reason}; --port 0 picks a free port"
        ) from error


def address_of(host: str, port: int) -> str:
    """Return the URL that a person can open."""
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104  for people
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@contextmanager
def quiet_signals() -> Iterator[None]:
    """Ignore the signals that uvicorn raises again after it has ended cleanly."""
    before = {one: signal.signal(one, lambda *_: None) for one in _STOPPING}
    wakeup = signal.set_wakeup_fd(-1)  # no other handler sees them
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)


class Connection(H11Protocol):
    """An HTTP connection of uvicorn with time limits.

    uvicorn waits without limit for the head of a request, for the rest of a refused request, and
    for a client to read a reply; its limit on connections refuses new clients. Here each wait has a
    time limit, after which the connection is closed. If there are too many connections, the one
    that has waited longest for a request is closed in favour of the newest.
    """

    _end: asyncio.TimerHandle | None = None
    _idle_since: float | None = None  # None while a request is processed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does not set this for accepted sockets; without it the body of a reply would wait
        # 40 ms until the client acknowledges the head
        own: socket.socket = transport.get_extra_info("socket")
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_next()
        if len(self.connections) > MOST:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._end is not None:
            self._end.cancel()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._idle_since = None
            self._cut_in(_WHOLE_S)

    def on_response_complete(self) -> None:
        """Wait for the next request; while a reply is unread its time limit continues."""
        if not self.transport.get_write_buffer_size():
            self._wait_for_next()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, with the headers of all replies."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply is being sent
            self.transport.abort()
            return
        head = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        reply = h11.Response(status_code=400, headers=[*head, *HEADERS.items()])
        events = (reply, h11.Data(data=msg.encode()), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _wait_for_next(self) -> None:
        self._idle_since = self.loop.time()
        self._cut_in(_NEXT_S)

    def _make_room(self) -> None:
        idle = [
            (one._idle_since, id(one), one)
            for one in self.connections
            if isinstance(one, Connection) and one._idle_since is not None
        ]
        _, _, longest = min(idle)  # the newest is among them
        longest._idle_since = None  # it is closed in the next iteration of the loop
        longest._cut_in(0)

    def _cut_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)
