"""An HTTP connection with time limits, and the headers of every reply."""

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# headers of all replies: only our own files, no inline scripts or styles, frames or forms
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

MOST = 512  # connections; systems often allow a process 1024 files
_NEXT_S = 5.0  # time for the head of a request, from the connection or the last reply
_WHOLE_S = 60.0  # time from there until the client has read the reply


class Connection(H11Protocol):
    """An HTTP connection of uvicorn with time limits.

    uvicorn waits without limit for the head of a request, for the rest of a refused request, and
    for a client to read a reply; its limit on connections refuses new clients. Here each wait has a
    time limit, after which the connection is closed. If there are too many connections, the one
    that has waited longest for a request is closed in favour of the newest.
    """

    _end: asyncio.TimerHandle | None = None
    _idle_since: float | None = None  # None while a request is processed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does not set this for accepted sockets; without it the body of a reply would wait
        # 40 ms until the client acknowledges the head
        own: socket.socket = transport.get_extra_info("socket")
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_next()
        if len(self.connections) > MOST:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._end is not None:
            self._end.cancel()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._idle_since = None
            self._cut_in(_WHOLE_S)

    def on_response_complete(self) -> None:
        """Wait for the next request; while a reply is unread its time limit continues."""
        if not self.transport.get_write_buffer_size():
            self._wait_for_next()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, with the headers of all replies."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply is being sent
            self.transport.abort()
            return
        head = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        reply = h11.Response(status_code=400, headers=[*head, *HEADERS.items()])
        events = (reply, h11.Data(data=msg.encode()), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _wait_for_next(self) -> None:
        self._idle_since = self.loop.time()
        self._cut_in(_NEXT_S)

    def _make_room(self) -> None:
        idle = [
            (one._idle_since, id(one), one)
            for one in self.connections
            if isinstance(one, Connection) and one._idle_since is not None
        ]
        _, _, longest = min(idle)  # the newest is among them
        longest._idle_since = None  # it is closed in the next iteration of the loop
        longest._cut_in(0)

    def _cut_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)
