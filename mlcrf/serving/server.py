"""The service as a running server: bound, announced, and ended once its answers are given."""

from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from mlcrf.web.connections import Connection
from mlcrf.web.listening import address_of, listen, quiet_signals


def serve(app: FastAPI, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Answer until SIGINT or SIGTERM comes; what is asked already is answered first.

    Args:
        port: 0 takes a free one.
        announce: called with the address once it is there.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    with listen(host, port) as listener, quiet_signals():
        config = uvicorn.Config(
            app,
            http=Connection,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=30,
        )
        announce(address_of(host, listener.getsockname()[1]))
        uvicorn.Server(config).run(sockets=[listener])
