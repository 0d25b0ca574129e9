"""Run an HTTP server: listen, announce the address, serve, and stop cleanly on a signal."""

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from mlcrf.errors import SettingsError
from mlcrf.web.connections import Connection

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
