"""Reach the hub of weights only if it answers, so that nothing waits for it in vain."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import httpx
import huggingface_hub.constants as hub


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Make the hub's client use only cached weights, instead of retrying for most of a minute."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _hub_answers(timeout_s: float = 5.0) -> bool:
    """Return whether the hub answers in time, through a proxy if one is set."""
    answered = Event()

    def ask() -> None:
        with suppress(Exception):  # any failure means that it does not answer
            httpx.head(hub.ENDPOINT, timeout=timeout_s)
            answered.set()

    # A name lookup has no time limit, so this thread may outlive the call.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()
