"""A connection that does not wait for the other side forever."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlcrf.web.headers import HEADERS

_MOST = 512  # connections; systems often allow a process 1024 files
_NEXT_S = 5.0  # until the head of a request is in, from the beginning or the last reply on
_WHOLE_S = 60.0  # from there until its reply is taken


class Connection(H11Protocol):
    """HTTP of uvicorn, with what it lacks.

    uvicorn waits without end for the head of a request, for the rest of one that was refused, and
    for a reader to take a reply; its limit of connections keeps everybody out instead. Here each
    of these has its time, after which the connection is cut.
    """

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many who do."""
        super().connection_made(transport)
        self._cut_in(_NEXT_S if len(self.connections) <= _MOST else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        if self._end is not None:
            self._end.cancel()

    def handle_events(self) -> None:
        """Give a request its time once its head is in."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._cut_in(_WHOLE_S)

    def on_response_complete(self) -> None:
        """Wait for the next request; for a reply that is not taken the time goes on."""
        if not self.transport.get_write_buffer_size():
            self._cut_in(_NEXT_S)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with the headers that every reply has."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply is on its way
            self.transport.abort()
            return
        head = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        reply = h11.Response(status_code=400, headers=[*head, *HEADERS.items()])
        for event in (reply, h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _cut_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)
