"""One client's connection: uvicorn's, with an end to what a client may take its time or space for.

uvicorn reads a head of any length and waits for the rest of a request for ever, so one client could
fill the memory, and a few thousand take every file descriptor. It also loses the body of a request
that offers to go on in another protocol, as Java's own client does with HTTP/2 in every first one.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .express import SMALL, BodyReader, Express, ExpressCycle, HeadReader, Target

HEAD_BYTES = 64 << 10
"""Of the request line and all headers, after what the first read brought; nginx takes half."""

SILENCE_S = 30.0
"""How long the rest of a request may be waited for while nothing comes."""

_HEAD_END = b"\r\n\r\n"
_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
_REFUSED = b'{"error":"the head of the request is larger than %d bytes"}' % HEAD_BYTES


@dataclass(frozen=True, slots=True)
class Known:
    """A request that went the short way: its head, the length of its body, what the head said."""

    head: bytes
    length: int
    target: Target
    headers: dict[bytes, bytes]


class Connection(HttpToolsProtocol):
    """Closes what sends a head without end (431), or stops in the middle of a request."""

    silence_s = SILENCE_S

    def __init__(self, *arguments: Any, express: Express | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._express = express
        self._short: ExpressCycle | None = None  # the cycle, where it went the short way
        self._running: Any = None  # the cycle that is answered; with pipelining not the last one
        self._known: Known | None = None  # the last request, where the next may be just as short
        self._begun = 0  # requests in what was received last
        self._head = 0  # bytes of a head that has not ended yet
        self._in_head = True
        self._in_message = True  # a new connection has a request to send
        self._silence: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._heard()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        # uvicorn tells the last request alone; the others would be answered into a closed socket.
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        self._running = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what is still to come."""
        if self._silence is not None:
            self._heard()
        if not self._in_message:
            if self._known is not None and self._begin_again(self._known, data):
                return
            self._known = None
            self._begun = 0
            whole = without_offer(data)
            super().data_received(whole)
            if self._begun == 1 and not self._in_message and self._short is not None:
                self._remember(self._short, whole)
        else:
            super().data_received(without_offer(data) if self._in_head else data)
        if not self._in_message or self.transport.is_closing():
            return
        if self._in_head:
            self._head += len(data) if self._head else 1  # the first part may hold other requests
            if self._head > HEAD_BYTES:
                self._refuse()
                return
        self._wait()
        cycle = self._short
        if cycle is not None and cycle.more_body and cycle.length > SMALL:
            self._read_into(cycle)

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._in_head = self._in_message = True
        self._begun += 1
        self._head = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Its head has ended: choose its way."""
        self._in_head = False
        self._short = None
        if self._express is None or not self._begin_express(self._express):
            headers, url, expects = self.headers, self.url, self.expect_100_continue
            super().on_message_begin()  # makes the scope
            self.headers += headers
            self.url = url
            self.expect_100_continue = expects
            super().on_headers_complete()

    def _begin_express(self, express: Express) -> bool:
        """Start the request on the short way, where it may go there."""
        if self.expect_100_continue or (self.cycle and not self.cycle.response_complete):
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.should_upgrade():
            return False
        headers = dict(self.headers)
        announced = headers.get(b"content-length", b"")
        if not announced.isdigit() or b"transfer-encoding" in headers:
            return False
        target = express.target(self.url)
        if target is None or not express.admits(headers):
            return False
        length, prefix, held = int(announced), 0, None
        if length > SMALL:
            endpoint = target[0]
            if length > endpoint.limit_bytes or not endpoint.takes_views:
                return False
            sent = headers.get(b"inference-header-content-length", b"")
            prefix = int(sent) if sent.isdigit() and len(sent) < 10 else 0
            held = endpoint.server.dataplane.receive()
        cycle = ExpressCycle(
            target,
            headers,
            self.transport,
            self.flow,
            length=length,
            prefix=prefix,
            keep_alive=parser.get_http_version() != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
            held=held,
        )
        self._start(cycle, express)
        return True

    def _start(self, cycle: ExpressCycle, express: Express) -> None:
        self._short = self._running = cycle
        self.cycle = cycle  # type: ignore[assignment]
        default = express.default(self.server_state.default_headers)
        cycle.task = self.loop.create_task(cycle.run(default, self.tasks))
        self.tasks.add(cycle.task)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _remember(self, cycle: ExpressCycle, data: bytes) -> None:
        """Keep the head of a request that came in one piece: mostly the next one has the same."""
        if cycle.length <= SMALL and cycle.keep_alive and not cycle.more_body:
            size = len(data) - cycle.length
            # Not where more came behind the body, as the empty line of old clients (RFC 9112, 2.2).
            if data.find(_HEAD_END) + len(_HEAD_END) == size:
                self._known = Known(data[:size], cycle.length, cycle.target, cycle.headers)

    def _begin_again(self, known: Known, data: bytes) -> bool:
        """Start a request whose head is, byte for byte, that of the last: it was parsed before."""
        size = len(known.head)
        if (
            len(data) - size != known.length
            or not data.startswith(known.head)
            or self._express is None
            or not (self.cycle is None or self.cycle.response_complete)
            or not self._express.admits(known.headers)
        ):
            return False
        self._unset_keepalive_if_required()
        cycle = ExpressCycle(
            known.target,
            known.headers,
            self.transport,
            self.flow,
            length=known.length,
            prefix=0,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        cycle.body = data[size:]
        cycle.more_body = False
        self._start(cycle, self._express)
        return True

    def on_body(self, body: bytes) -> None:
        """The next part of a body."""
        if self._short is not None:
            self._short.feed(body)
        else:
            super().on_body(body)

    def _read_into(self, cycle: ExpressCycle) -> None:
        """Let the rest of a large body bypass the parser."""

        def heard() -> None:
            self._heard()
            self._wait()

        def done() -> None:
            self._heard()
            self.transport.set_protocol(HeadReader(self))
            # The parser still waits for the body that it was not shown.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.on_message_complete()

        self.transport.set_protocol(BodyReader(cycle, heard, done, self))

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is on its way: wait for the next request, but not for ever."""
        self._idle_since = self.loop.time()
        if self._short is None or self.pipeline or self.timeout_keep_alive_task is not None:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        """Close what is idle for too long. One timer serves many answers: each costs as much."""
        self._idle = None
        if self._in_message or (self.cycle and not self.cycle.response_complete):
            return  # the next answer begins anew
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._idle = self.loop.call_later(left_s, self._look_idle)
        else:
            self.timeout_keep_alive_handler()

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
    """The beginning of a request, without an offer to go on in another protocol, such as HTTP/2.

    RFC 9110 (7.8) lets a server pass over it; of those that there are, this one speaks none.
    """
    if b"pgrade:" not in data and b"PGRADE:" not in data:
        return data
    end = data.find(_HEAD_END)
    head = data if end < 0 else data[: end + 2]
    return _OFFER.sub(b"", head) + data[len(head) :]
