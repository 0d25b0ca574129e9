"""Drivers of fsspec, by which object stores are reached.

Their settings and credentials come from where each takes them: of S3 the variables and files that
`aws` reads, and `FSSPEC_S3_...`. What they raise is nowhere bounded.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

# By scheme the module that fsspec needs, and what to install for it.
DRIVERS = {"s3": ("s3fs", "'mlcrf[s3]'"), "gs": ("gcsfs", "gcsfs"), "memory": None, "file": None}
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}
    }
}
LONGEST_S = 30.0  # until a store has answered for the first time
PAUSES_S = (0.3, 1.0)  # before a file is tried again

_T = TypeVar("_T")


@cache
def system(scheme: str) -> Any:
    """Return the driver of a store; one for all threads, which lists anew each time."""
    import fsspec

    if driver := DRIVERS[scheme]:  # what matters it raises, and a warning comes with every file
        logging.getLogger(driver[0]).setLevel(logging.ERROR)
    return fsspec.filesystem(
        scheme,
        use_listings_cache=False,
        skip_instance_cache=True,
        **_SETTINGS.get(scheme, {}),
    )


def entries(driver: Any, folder: str) -> list[tuple[str, bool]]:
    """List a folder: names, and whether they are folders."""
    own = driver._strip_protocol(folder).strip("/")
    names = []
    for entry in driver.ls(folder, detail=True):
        path = entry["name"].strip("/")
        if path != own:  # some stores have an empty file for a folder
            names.append((path.rpartition("/")[2], entry["type"] == "directory"))
    return names


def within(seconds: float, ask: Callable[[], _T]) -> _T:
    """Return the answer to a question; its thread is left behind after so many seconds.

    Raises:
        TimeoutError: there is none yet.
    """
    answers: list[_T] = []
    errors: list[Exception] = []

    def wait() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - raised again by who asked
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
    return " ".join(str(error).split())[:300] or type(error).__name__
