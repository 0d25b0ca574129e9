"""Sockets, addresses and signals of a server."""

import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mlcrf.errors import SettingsError

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        SettingsError: the address is not this machine's, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise SettingsError(
            f"--host {host} --port {port}: cannot listen there: {reason}; --port 0 takes a free one"
        ) from error


def address_of(host: str, port: int) -> str:
    """What a person can open."""
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104  for people
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@contextmanager
def quiet_signals() -> Iterator[None]:
    """Let the server end by itself: it raises the signals that it has handled once more."""
    before = {one: signal.signal(one, lambda *_: None) for one in _STOPPING}
    wakeup = signal.set_wakeup_fd(-1)  # nobody else is told of them either
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)
