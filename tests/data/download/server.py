"""A web server on this computer that serves a few files properly, and misbehaves when told."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files`; each request for one of them first uses up one of `faults`.

    `asked` lists the path and Range header of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: deque[Fault] = deque()
        self.asked: list[tuple[str, str | None]] = []
        self.flooded = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    rest: bytes

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append((name, self.headers.get("Range")))
        if name not in self.server.files:
            self.send_error(404)
            return
        fault = self.server.faults.popleft() if self.server.faults else serve()
        with suppress(OSError):  # the client may have left
            fault(self, self.server.files[name])

    def log_message(self, *args: object) -> None:
        pass


Fault = Callable[[Handler, bytes], None]


def serve(
    *,
    stop_after: int | None = None,
    claim: int = 0,
    length: bool = True,
    ranges: bool = True,
    if_range: bool = True,
    etag: bool = True,
    then: Callable[[Handler], object] | None = None,
) -> Fault:
    """A proper answer, or one that is wrong in the ways that are asked for.

    Args:
        stop_after: end the connection after so many bytes of the body.
        claim: what the Content-Length lies by.
        length: say how long the file is; else end the body by ending the connection.
        ranges: honour Range headers.
        if_range: honour If-Range headers.
        etag: send an ETag.
        then: do this before the connection ends.
    """

    def answer(handler: Handler, content: bytes) -> None:
        name = handler.path.rpartition("/")[2]
        tag = handler.server.etags.get(name, '"1"')
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = handler.headers.get("If-Range") in (None, tag) or not if_range
        start = int(asked[1]) if asked and ranges and same else 0
        partial = bool(asked and ranges and same)
        if partial and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if partial else 200)
        body = content[start:]
        if length:
            handler.send_header("Content-Length", str(len(body) + claim))
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag:
            handler.send_header("ETag", tag)
        handler.end_headers()
        handler.wfile.write(body[:stop_after])
        handler.wfile.flush()
        handler.rest = b"" if stop_after is None else body[stop_after:]
        if then is not None:
            then(handler)

    return answer


def status(code: int) -> Fault:
    """Only a status code."""
    return lambda handler, content: handler.send_error(code)


def redirect(location: str) -> Fault:
    """Send the client somewhere else."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def silence(handler: Handler) -> None:
    """Say nothing until the test is over."""
    handler.server.closing.wait()


def trickle(handler: Handler) -> None:
    """Send the rest of the body, a byte now and then, until the test is over."""
    for byte in handler.rest:
        if handler.server.closing.wait(0.05):
            break
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def flood(handler: Handler) -> None:
    """Send zeros until the client leaves; note how many bytes it took."""
    handler.server.flooded = 0
    while handler.server.flooded < 500_000_000:
        handler.server.flooded += handler.wfile.write(bytes(1 << 20))


@contextmanager
def running() -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
