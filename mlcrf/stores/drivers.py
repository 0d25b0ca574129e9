"""Drivers of fsspec for object stores.

Each reads its own settings and credentials: for S3 the variables and files of `aws`, and
`FSSPEC_S3_...`. They may raise any exception.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from mlcrf.errors import reason_of

# scheme -> module that fsspec needs, and the package to install
DRIVERS = {"s3": ("s3fs", "'mlcrf[s3]'"), "gs": ("gcsfs", "gcsfs"), "memory": None, "file": None}
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}
    }
}
LONGEST_S = 30.0  # limit for the first answer of a store
PAUSES_S = (0.3, 1.0)  # before each retry

_T = TypeVar("_T")


@cache
def system(scheme: str) -> Any:
    """Return the driver of a store, shared by all threads, without a cache of listings."""
    import fsspec

    if driver := DRIVERS[scheme]:  # it warns about every file, and raises important errors
        logging.getLogger(driver[0]).setLevel(logging.ERROR)
    return fsspec.filesystem(
        scheme,
        use_listings_cache=False,
        skip_instance_cache=True,
        **_SETTINGS.get(scheme, {}),
    )


def entries(driver: Any, folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, and whether each is a folder."""
    own = driver._strip_protocol(folder).strip("/")
    names = []
    for entry in driver.ls(folder, detail=True):
        path = entry["name"].strip("/")
        if path != own:  # some stores represent a folder by an empty file
            names.append((path.rpartition("/")[2], entry["type"] == "directory"))
    return names


def within(seconds: float, ask: Callable[[], _T]) -> _T:
    """Return the result of a call with a time limit; after it, its thread is abandoned.

    Raises:
        TimeoutError: the call has not returned in time.
    """
    answers: list[_T] = []
    errors: list[Exception] = []

    def wait() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s; is the address right?")
    return answers[0]


def reason(error: Exception) -> str:
    """Return the message of an error, on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return reason_of(error)[:300]
