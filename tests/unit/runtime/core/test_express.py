"""The short way from a real socket to an endpoint of ours, one connection at a time."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from uvicorn.server import ServerState

from mlserve_cli.runtime import connection
from mlserve_cli.runtime.connection import Connection
from mlserve_cli.runtime.dataplane import DataPlane
from mlserve_cli.runtime.errors import Unauthorized
from mlserve_cli.runtime.express import Express
from mlserve_cli.runtime.gate import Gate
from mlserve_cli.runtime.protocols.endpoint import Endpoint, Reply


class Echo(Endpoint):
    """Answers with the body, or never, and remembers who left."""

    protocol = "echo"

    def __init__(self):
        metrics = SimpleNamespace(count=lambda *sent, **named: None)
        self.server = SimpleNamespace(
            metrics=metrics,
            watchers=SimpleNamespace(of=lambda status: ()),
            dataplane=DataPlane(processing_threads=1, max_payloads=1),
        )
        self._tells_timing = False
        self.limit_bytes = 1 << 20
        self.answered = 0
        self.started = asyncio.Event()
        self.left = asyncio.Event()
        self.decoded = asyncio.Event()

    async def answer(self, call):
        body = await self.body(call)
        if body == b"long":
            self.started.set()
            await self.decoded.wait()
            with call.watch:
                self.answered += 1  # here it would be computed
        if body == b"never":
            self.started.set()
            try:
                with call.watch:
                    await asyncio.Event().wait()
            finally:
                self.left.set()
        self.answered += 1
        return Reply(call.headers.get(b"x-tag", b"") + body)


class Guard:
    """Asks for the key that is the right one at the moment."""

    enabled = True
    key = "first"

    def require(self, needed, *, authorization, api_key):
        if api_key != self.key:
            raise Unauthorized("no")


class Parses(Connection):
    """Counts the heads that were parsed."""

    parsed = 0

    def on_headers_complete(self):
        type(self).parsed += 1
        super().on_headers_complete()


def request(body: bytes, *more: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in more)
    return b"POST /echo HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (
        lines,
        len(body),
        body,
    )


class Line:
    """One connection to a server of one endpoint."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    def send(self, data):
        self._writer.write(data)

    async def answer(self):
        """The status and the body of the next answer."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        return int(head.split()[1]), await self._reader.readexactly(length)

    async def ended(self):
        """What else comes until the server closes."""
        return await asyncio.wait_for(self._reader.read(), 20)

    async def leave(self):
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def talk(story, *, guard=None, **config):
    """Run `story(line, endpoint)` → (what it returns, how many heads were parsed)."""
    Parses.parsed = 0

    async def run():
        endpoint = Echo()
        server = SimpleNamespace(guard=guard, metrics=endpoint.server.metrics)
        middleware = [] if guard is None else [Middleware(Gate, server)]
        app = Starlette(routes=[Route("/echo", endpoint, methods=["POST"])], middleware=middleware)
        settings = uvicorn.Config(app, http=Parses, ws="none", log_config=None, **config)
        settings.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Parses(settings, state, {}, express=Express(app)), "127.0.0.1", 0
        )
        line = Line(*await asyncio.open_connection(*listener.sockets[0].getsockname()))
        try:
            return await story(line, endpoint, state)
        finally:
            await line.leave()
            listener.close()

    return asyncio.run(run()), Parses.parsed


def test_the_same_head_again_is_not_parsed_again_and_each_body_gets_its_own_answer() -> None:
    async def story(line, endpoint, state):
        found = []
        for number in range(5):
            line.send(request(b"body %d" % number))
            found.append(await line.answer())
        assert not state.tasks
        return found

    found, parsed = talk(story)
    assert found == [(200, b"body %d" % number) for number in range(5)]
    assert parsed == 2  # of the very first one it is not known where it began


def test_another_head_is_parsed_whatever_was_sent_before() -> None:
    async def story(line, endpoint, state):
        found = []
        for tag in (b"a", b"b", b"b", b"c"):
            line.send(request(b"x", b"X-Tag: " + tag))
            found.append((await line.answer())[1])
        line.send(request(b"longer", b"X-Tag: c"))
        found.append((await line.answer())[1])
        return found

    assert talk(story)[0] == [b"ax", b"bx", b"bx", b"cx", b"clonger"]


@pytest.mark.parametrize("cut", [1, 20, -5, -1])
def test_a_known_head_whose_request_comes_in_two_parts_is_answered_once(cut: int) -> None:
    async def story(line, endpoint, state):
        whole = request(b"0123456789")
        for _ in range(3):
            line.send(whole)
            await line.answer()
        line.send(whole[:cut])
        for _ in range(20):  # both parts must not come as one
            await asyncio.sleep(0)
        line.send(whole[cut:])
        first = await line.answer()
        line.send(request(b"after", b"X-Tag: z"))
        return [first, await line.answer()], endpoint.answered

    assert talk(story)[0] == ([(200, b"0123456789"), (200, b"zafter")], 5)


def test_requests_that_come_in_one_piece_are_answered_in_their_order() -> None:
    async def story(line, endpoint, state):
        for _ in range(3):
            line.send(request(b"known"))
            await line.answer()
        line.send(request(b"known") + request(b"other") + request(b"known"))
        return [(await line.answer())[1] for _ in range(3)]

    assert talk(story)[0] == [b"known", b"other", b"known"]


def test_a_key_that_is_no_longer_good_is_refused_though_its_head_is_known() -> None:
    guard = Guard()

    async def story(line, endpoint, state):
        sent = request(b"x", b"X-API-Key: first")
        found = []
        for number in range(5):
            if number == 3:
                guard.key = "second"
            line.send(sent)
            found.append((await line.answer())[0])
        return found

    assert talk(story, guard=guard)[0] == [200, 200, 200, 401, 401]


def test_a_client_that_leaves_ends_the_computing_of_its_answer_at_once() -> None:
    async def story(line, endpoint, state):
        line.send(request(b"never"))
        await endpoint.started.wait()
        await line.leave()
        await asyncio.wait_for(endpoint.left.wait(), 20)
        await asyncio.gather(*state.tasks)
        return endpoint.answered

    assert talk(story)[0] == 0


def test_nothing_is_computed_for_a_client_that_left_while_its_request_was_decoded() -> None:
    async def story(line, endpoint, state):
        line.send(request(b"long"))
        await endpoint.started.wait()
        (connection,) = state.connections
        await line.leave()
        async with asyncio.timeout(20):
            while not connection.cycle.disconnected:  # noqa: ASYNC110 - the socket says nothing
                await asyncio.sleep(0)
        endpoint.decoded.set()
        await asyncio.gather(*state.tasks)
        return endpoint.answered

    assert talk(story)[0] == 0


@pytest.mark.parametrize("path", [b"/echo", b"/echo?long"])
def test_a_connection_that_breaks_ends_every_request_that_came_over_it(path: bytes) -> None:
    async def story(line, endpoint, state):
        first = request(b"never").replace(b"/echo", path, 1)
        line.send(first + request(b"second") + request(b"third"))
        await asyncio.wait_for(endpoint.started.wait(), 20)
        (broken,) = state.connections
        broken.transport.abort()  # the answer before this one met a client that had left
        await asyncio.wait_for(endpoint.left.wait(), 20)
        await asyncio.gather(*state.tasks)
        return endpoint.answered

    assert talk(story)[0] == 0


def test_an_idle_connection_is_closed_by_itself() -> None:
    async def story(line, endpoint, state):
        line.send(request(b"last"))
        await line.answer()
        return await line.ended()

    assert talk(story, timeout_keep_alive=0.05)[0] == b""


def test_the_time_until_an_idle_connection_is_closed_begins_anew_with_each_answer() -> None:
    async def story(line, endpoint, state):
        now = asyncio.get_running_loop().time
        found = []
        for idle_s in (99, 99, 101):
            line.send(request(b"one"))
            found.append(await line.answer())
            (connection,) = state.connections
            connection._idle_since = now() - idle_s  # as if so much time had gone by
            connection._look_idle()
        return found, await line.ended()

    assert talk(story, timeout_keep_alive=100)[0] == ([(200, b"one")] * 3, b"")


def test_nothing_of_a_body_is_kept_by_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    start = connection.Connection._start

    def remembering(self, cycle, express):
        seen.append(cycle)
        start(self, cycle, express)

    monkeypatch.setattr(connection.Connection, "_start", remembering)

    async def story(line, endpoint, state):
        line.send(request(b"x" * 1000))
        await line.answer()
        await asyncio.gather(*state.tasks)
        return [len(cycle.body) for cycle in seen]

    assert talk(story)[0] == [0]


@pytest.mark.parametrize("body", [b"0123456789", b"\r\n23456789"])
def test_an_empty_line_behind_a_body_is_no_part_of_it_however_often_it_comes(body: bytes) -> None:
    async def story(line, endpoint, state):
        found = []
        for _ in range(4):  # as old clients end a form (RFC 9112, section 2.2)
            line.send(request(body) + b"\r\n")
            found.append(await line.answer())
        return found

    assert talk(story)[0] == [(200, body)] * 4
