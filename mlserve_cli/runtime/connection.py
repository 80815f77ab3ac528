"""One client's connection: uvicorn's, with an end to what a client may take its time or space for.

uvicorn reads a head of any length and waits for the rest of a request for ever, so one client could
fill the memory, and a few thousand take every file descriptor. It also loses the body of a request
that offers to go on in HTTP/2, as Java's own client does with every first one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES = 64 << 10
"""Of the request line and all headers, after what the first read brought; nginx takes half."""

SILENCE_S = 30.0
"""How long the rest of a request may be waited for while nothing comes."""

_OFFER = b"\r\nupgrade: h2c\r\n"
_REFUSED = b'{"error":"the head of the request is larger than %d bytes"}' % HEAD_BYTES


class Connection(HttpToolsProtocol):
    """Closes what sends a head without end (431), or stops in the middle of a request."""

    silence_s = SILENCE_S

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = 0  # bytes of a head that has not ended yet
        self._in_head = True
        self._in_message = True  # a new connection has a request to send
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._heard()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what is still to come."""
        if self._silence is not None:
            self._heard()
        if self._in_head or not self._in_message:
            data = without_offer(data)
        super().data_received(data)
        if not self._in_message or self.transport.is_closing():
            return
        if self._in_head:
            self._head += len(data) if self._head else 1  # the first part may hold other requests
            if self._head > HEAD_BYTES:
                self._refuse()
                return
        self._wait()

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._in_head = self._in_message = True
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head has ended."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._in_message = False
        super().on_message_complete()

    def _wait(self) -> None:
        self._silence = self.loop.call_later(self.silence_s, self._give_up)

    def _heard(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _give_up(self) -> None:
        if self.flow.read_paused:  # it is us who do not listen
            self._wait()
        else:
            self.transport.close()

    def _refuse(self) -> None:
        self.transport.write(
            STATUS_LINE[431]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(_REFUSED)
            + _REFUSED
        )
        self.transport.close()


def without_offer(data: bytes) -> bytes:
    """The beginning of a request, without an offer to go on in HTTP/2 over the same connection.

    RFC 9113 has dropped that offer, and RFC 9110 (7.8) lets a server pass over it.
    """
    if b"h2c" not in data:
        return data
    head, end, _ = data.partition(b"\r\n\r\n")
    place = (head + end).lower().find(_OFFER)
    if place < 0:
        return data
    return data[: place + 2] + data[place + len(_OFFER) :]
