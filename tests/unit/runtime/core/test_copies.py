"""How often the bytes of a large tensor are written between its socket and the engine."""

import asyncio
import json
import threading

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from mlserve_cli.runtime import batch, express
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.connection import Connection
from mlserve_cli.runtime.express import Express
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

ROWS = 40_000  # 640 kB: more than an event loop reads at once


class Story:
    """What the engine was given, the bodies that were received, and what a batch was made of."""

    def __init__(self):
        self.given = []
        self.bodies = []
        self.joined = []
        self.may_run = threading.Event()
        self.may_run.set()


@pytest.fixture
def story(monkeypatch):
    story = Story()
    room, join = express._room, batch.Buffers.join

    def kept_room(length, prefix):
        memory = room(length, prefix)
        story.bodies.append(np.frombuffer(memory, np.uint8))
        return memory

    def kept_join(self, parts, key, rows):
        whole = join(self, parts, key, rows)
        story.joined.append(([part["x"] for part in parts], self._kept.get(key)))
        return whole

    monkeypatch.setattr(express, "_room", kept_room)
    monkeypatch.setattr(batch.Buffers, "join", kept_join)
    return story


HEAD = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: a\r\n%b\r\nContent-Length: %d\r\n\r\n"


async def talk(place, messages):
    """Send bodies over one connection, each once the last was answered; the status of each."""
    reader, writer = await asyncio.open_connection(*place)
    found = []
    for body, header in messages:
        writer.write(HEAD % (header, len(body)) + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        lines = dict(line.split(b": ") for line in head.split(b"\r\n")[1:-2])
        await asyncio.wait_for(reader.readexactly(int(lines[b"content-length"])), 20)
        found.append(int(head.split()[1]))
    writer.close()
    return found


async def reached(state):
    """Give the event loop turns until `state()` holds."""
    async with asyncio.timeout(20):
        while not state():  # noqa: ASYNC110 - it is the server's state, which tells nobody
            await asyncio.sleep(0)


def ask(story, package, messages):
    """Send each over a connection of its own, all while the engine is busy with the first."""

    async def run(place, batcher):
        loop = asyncio.get_running_loop()
        story.may_run.clear()
        first = loop.create_task(talk(place, messages[:1]))
        await reached(lambda: story.joined)
        others = [loop.create_task(talk(place, [message])) for message in messages[1:]]
        await reached(lambda: batcher.queued_rows == (ROWS // 2) * len(others))
        story.may_run.set()
        return [status for each in await asyncio.gather(first, *others) for status in each]

    return serve(story, package, run)


def serve(story, package, then):
    """Run `then(place, batcher)` while the package is served at `place`."""

    async def run():
        sizing = Sizing(threads=1, max_batch=1 << 16)
        server = Server(
            Settings(models=str(package.path), sizing={"iris": sizing}, max_queue_rows=1 << 20),
            package.path,
        )
        app = build_app(server)
        config = uvicorn.Config(app, http=Connection, ws="none", log_config=None)
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        async with server.lifespan():
            del story.given[:], story.joined[:]
            batcher = server.registry.get("iris").batcher
            listener = await loop.create_server(
                lambda: Connection(config, state, {}, express=Express(app)), "127.0.0.1", 0
            )
            place = listener.sockets[0].getsockname()
            found = await then(place, batcher)
            listener.close()
        return found

    return asyncio.run(run())


def made(fake_engine, iris_package, story):
    def answer(engine, tensors):
        story.given.append(tensors["x"])
        assert story.may_run.wait(20)
        return {"scores": tensors["x"] * 2}

    return iris_package(engine=fake_engine(answer), labels=())


def binary(rows):
    data = np.arange(rows * 4, dtype=np.float32)
    entry = {
        "name": "x",
        "shape": [rows, 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": data.nbytes},
    }
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return text + data.tobytes(), b"Inference-Header-Content-Length: %d" % len(text)


def test_the_engine_reads_a_lone_tensor_where_the_socket_wrote_it(
    story, fake_engine, iris_package
) -> None:
    found = ask(story, made(fake_engine, iris_package, story), [binary(ROWS)])

    assert found == [200]
    (given,), (received,) = story.given, story.bodies
    assert np.shares_memory(given, received)
    assert given.flags.aligned
    assert given.ctypes.data % 64 == 0
    assert np.array_equal(given.ravel(), np.arange(ROWS * 4))


def test_a_batch_is_written_once_from_where_the_sockets_wrote_its_tensors(
    story, fake_engine, iris_package
) -> None:
    found = ask(story, made(fake_engine, iris_package, story), [binary(ROWS // 2)] * 4)

    assert found == [200] * 4
    parts, buffers = story.joined[1]
    assert len(parts) == 3
    assert all(
        sum(np.shares_memory(part, received) for received in story.bodies) == 1 for part in parts
    )
    assert np.shares_memory(story.given[1], buffers["x"])
    assert np.array_equal(story.given[1].ravel(), np.tile(np.arange(ROWS * 2), 3))


def test_the_next_large_body_on_a_connection_hardly_touches_the_parser(
    story, fake_engine, iris_package, monkeypatch
) -> None:
    parsed = []
    feed = express.ExpressCycle.feed

    def counted(self, chunk):
        parsed.append(len(chunk))
        feed(self, chunk)

    monkeypatch.setattr(express.ExpressCycle, "feed", counted)

    async def twice(place, batcher):
        return await talk(place, [binary(ROWS)] * 2)

    found = serve(story, made(fake_engine, iris_package, story), twice)

    assert found == [200, 200]
    assert len(parsed) == 2  # what came with a head, and nothing of the rest
    assert parsed[1] <= express._HEAD
    assert all(np.array_equal(given.ravel(), np.arange(ROWS * 4)) for given in story.given)


def test_small_and_large_bodies_take_turns_on_a_connection(
    story, fake_engine, iris_package
) -> None:
    package = made(fake_engine, iris_package, story)
    large, small = (binary(rows) for rows in (ROWS, 2))

    async def turns(place, batcher):
        return await talk(place, [large, small, small, large, small])

    assert serve(story, package, turns) == [200] * 5
    assert [len(given) for given in story.given] == [ROWS, 2, 2, ROWS, 2]
