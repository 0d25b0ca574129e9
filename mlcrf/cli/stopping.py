"""Ctrl-C and SIGTERM: a command cleans up and ends within seconds."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE_S = 8.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = tuple(128 + number for number in _SIGNALS)  # exit statuses
_received: list[int] = []


@contextmanager
def stopping() -> Iterator[None]:
    """Let SIGTERM unwind the body as Ctrl-C does, with status 143, so that nothing is half done.

    Python handles a signal only between its own instructions. So a thread watches too: after a
    second signal, or after `GRACE_S`, it ends the process at once. Files are whole or absent even
    then, and the next run removes temporary files. Once the body has ended, signals are ignored:
    the work is done, and the interpreter ends within a second.

    Only for the main thread of a program that ends after the body.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(wakeup)
        writer.close()


def raise_if_stopped() -> None:
    """Raise again what a signal raised, in case other code has swallowed it.

    For loops around libraries that may catch an exception which a signal raises within them.
    """
    for number in _received[:1]:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _interrupt(number: int, _: object) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


def _terminate(number: int, _: object) -> NoReturn:
    _received.append(number)
    raise SystemExit(128 + number)


def _watch(reader: socket.socket) -> None:
    with reader:
        timer: threading.Timer | None = None
        while received := reader.recv(1):
            number = received[0]
            if number not in _SIGNALS:
                continue
            if timer is not None:
                os._exit(128 + number)
            timer = threading.Timer(GRACE_S, os._exit, (128 + number,))
            timer.daemon = True
            timer.start()
        if timer is not None:
            timer.cancel()
