"""Start Ray locally or connect to a running cluster, with its logging silenced."""

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

_CLIENT_PORT = 10001  # default port of Ray's server for clients
_ANSWER_S = 10.0
_STORE_BYTES = 500_000_000  # size of Ray's object store for data in transit; Ray spills the rest


def parse_address(text: str) -> str:
    """Convert the value of `--cluster` to the address for `ray.init`.

    `ray` is the cluster that $RAY_ADDRESS names, or a temporary cluster on this machine;
    `ray://auto` is the cluster that runs on this machine; `ray://HOST` and `ray://HOST:PORT` are
    clusters elsewhere.

    Raises:
        SettingsError: the value has another form.
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
    """Connect to Ray, and yield its module; a cluster that was started here is stopped on exit.

    Args:
        address: see `parse_address`.

    Raises:
        ClusterError: the cluster cannot be reached within half a minute, or fails later.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # hide messages about workers that died: their work is done again
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
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has replaced it
        yield ray
    except (ray.exceptions.RayError, ConnectionError) as error:
        if isinstance(_innermost(error), ray.exceptions.RayActorError):
            raise ClusterError(
                f"Ray at {address} failed: workers died repeatedly on the same images, for lack of "
                "memory or because an image crashes its decoder; see Ray's logs"
            ) from error
        raise ClusterError(f"Ray at {address} failed: {_reason(error)}") from error
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Check that the address accepts connections, since Ray itself would wait long."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"cannot connect to Ray at {address}: {getattr(error, 'strerror', None) or error}; "
            "check the address, and that the cluster runs"
        ) from error


def _innermost(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or getattr(error, "cause", None)) is not None:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    """Return the last line of the innermost cause; earlier lines are a worker's traceback."""
    error = _innermost(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400].rstrip(".")
