"""The review as a running server: bound, announced, and ended without losing anything."""

import os
import secrets
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import uvicorn

from mlcrf.review.app import make_app
from mlcrf.review.safety import Hosts
from mlcrf.review.session import Review
from mlcrf.web.connections import Connection
from mlcrf.web.listening import address_of, listen, quiet_signals

_PAUSE_S = 0.02  # between photos that are ranked, for those who wait for an answer


def serve(
    review: Review,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    person: str,
    announce: Callable[[str], None],
) -> None:
    """Serve the page until SIGINT or SIGTERM comes; answers on the way are finished first.

    Args:
        port: 0 takes a free one.
        announce: called with the address to open, which holds the token, once it is there.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    token = secrets.token_urlsafe(24)
    with listen(host, port) as listener, _ranking(review), quiet_signals():
        port = listener.getsockname()[1]
        server = make_server(review, token=token, person=person, host=host, port=port)
        announce(f"{address_of(host, port)}/?token={token}")
        server.run(sockets=[listener])


def make_server(review: Review, *, token: str, person: str, host: str, port: int) -> uvicorn.Server:
    """A server to run with a socket that listens on that host and port."""
    app = make_app(review, token=token, person=person, hosts=Hosts(host), port=port)
    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan="off",
        log_level="error",  # warnings are about strangers, who could fill the terminal with them
        access_log=False,  # the token is in the first address
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def open_browser(address: str) -> None:
    """Open the page if somebody sits before a screen."""
    graphical = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & set(
        os.environ
    )
    if graphical and sys.stdout.isatty():
        webbrowser.open(address)


@contextmanager
def _ranking(review: Review) -> Iterator[None]:
    """Find out in the background which photos teach most."""
    done = Event()

    def work() -> None:
        while not done.is_set() and review.rank():
            done.wait(_PAUSE_S)

    worker = Thread(target=work, name="ranking", daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
