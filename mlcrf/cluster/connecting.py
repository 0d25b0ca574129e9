"""A connection to Ray, started here or joined where it runs."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlcrf.backbones.extractor import count_cores
from mlcrf.errors import ClusterError, SettingsError

_CLIENT_PORT = 10001  # where Ray listens for programs from outside, if it is not told otherwise
_ANSWER_S = 10.0
_STORE_BYTES = 500_000_000  # for what is on its way; Ray puts more on disk


def parse_address(text: str) -> str:
    """Return what Ray connects to for the text after `--cluster`.

    `ray` is the cluster that $RAY_ADDRESS names, or one that is started here for as long as it is
    needed; `ray://auto` one that runs here; `ray://HOST` and `ray://HOST:PORT` one elsewhere.

    Raises:
        SettingsError: it is none of these.
    """
    if text == "ray":
        return os.environ.get("RAY_ADDRESS") or "local"
    if text == "ray://auto":
        return "auto"
    scheme, mark, rest = text.partition("://")
    host, colon, port = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if scheme != "ray" or not mark or not host or (colon and not port.isdecimal()):
        raise SettingsError(
            f"--cluster {text}: expected ray, ray://auto or ray://HOST:PORT (usually 10001)"
        )
    return f"ray://{host}:{port or _CLIENT_PORT}"


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Give the module `ray`, connected; what is started for it ends with the context.

    Args:
        address: see `parse_address`.

    Raises:
        ClusterError: it cannot be reached within half a minute, or breaks down later.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # what Ray prints of workers that died stays away: their work is done again
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray

    _require_listening(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address == "local":
            ray.init(
                "local",
                num_cpus=count_cores(),
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        else:
            ray.init(address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot connect to Ray at {address}: {_reason(error)}; does a cluster of Ray "
            f"{ray.__version__} run there, and is its token in RAY_AUTH_TOKEN or in the file "
            "RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token?"
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own in its place
        yield ray
    except (ray.exceptions.RayError, ConnectionError) as error:
        if isinstance(_innermost(error), ray.exceptions.RayActorError):
            raise ClusterError(
                f"Ray at {address} gave up: workers died again and again on the same pictures, for "
                "want of memory or by one that breaks its decoder; Ray's logs say more"
            ) from error
        raise ClusterError(f"Ray at {address} gave up: {_reason(error)}") from error
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Check that somebody listens, for which Ray itself would wait long."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"cannot connect to Ray at {address}: {getattr(error, 'strerror', None) or error}; "
            "is the address right, and does the cluster run?"
        ) from error


def _innermost(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or getattr(error, "cause", None)) is not None:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    """Return the last line of the innermost cause; those before are a traceback elsewhere."""
    error = _innermost(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400].rstrip(".")
