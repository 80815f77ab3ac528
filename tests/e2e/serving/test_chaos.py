"""Everything at once, against a real server: nobody gets a wrong answer, and nobody is lost.

Good clients ask all the time, while others leave, send garbage, send too much or too slowly, poison
batches and overload the queue, and while an operator reloads models and shifts their traffic. In
the end SIGTERM comes in the middle of it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

LIMIT_MB = 1
QUEUE_ROWS = 96
HANG_S = 60  # nothing here takes as long; what does is a hang


@pytest.fixture(scope="session")
def slow_onnx(tmp_path_factory):
    """Milliseconds of arithmetic, and a table that `pick` must point into: 9 is poison."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(11)
    sizes = (16, 1024, 1024, 3)
    nodes, weights, last = [], [numpy_helper.from_array(np.arange(4.0).astype("f4"), "table")], "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        matrix = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    nodes[-1].output[0] = "y"
    nodes.append(helper.make_node("Gather", ["table", "pick"], ["picked"]))
    graph = helper.make_graph(
        nodes,
        "slow",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]]),
            helper.make_tensor_value_info("pick", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sizes[-1]]),
            helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["batch"]),
        ],
        weights,
    )
    path = tmp_path_factory.mktemp("chaos") / "slow.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def scaled_onnx(path, factor):
    """x (batch, 4) → y: x times a factor, by which its version is known."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


FACTORS = {"1": 2.0, "2": 3.0}


@pytest.fixture
def models(slow_onnx, tmp_path):
    """Two versions of `tiny`, which runs on the loop, and `slow`, which does not."""
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.runtime.manifest import Manifest

    root = tmp_path / "models"

    def package(name, version, file, sample):
        with create(root / name / version) as draft:
            (draft.serve / "model.onnx").write_bytes(file.read_bytes())
            manifest = Manifest(name=name, version=version, variant="fp32", inputs=(), outputs=())
            finish(draft, manifest, [sample])

    for version, factor in FACTORS.items():
        file = scaled_onnx(tmp_path / f"tiny{version}.onnx", factor)
        package("tiny", version, file, tiny_rows(np.arange(16)))
    package("slow", "1", slow_onnx, slow_rows(np.arange(16)))
    return root


def slow_rows(seeds):
    seeds = np.asarray(seeds)
    x = np.sin(np.outer(seeds + 1, np.arange(1, 17))).astype(np.float32)
    return {"x": x, "pick": (seeds % 4).astype(np.int64)}


def tiny_rows(seeds):
    return {"x": np.sin(np.outer(np.asarray(seeds) + 1, np.arange(1, 5))).astype(np.float32)}


def inference(tensors):
    """An inference request of those tensors."""
    names = {"float32": "FP32", "int64": "INT64"}
    items = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": names[array.dtype.name],
            "data": array.ravel().tolist(),
        }
        for name, array in tensors.items()
    ]
    return json.dumps({"inputs": items}).encode()


def post(path, body, *, length=None, headers=""):
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def document(self):
        return json.loads(self.body)


class Lost(Exception):
    """A request was sent whole, and no answer came."""


@dataclass
class Chaos:
    """The address, what the engines answer, and what has been seen so far."""

    host: str
    port: int
    expected: object
    seconds: float
    chance: random.Random
    seen: Counter = field(default_factory=Counter)
    memory: list = field(default_factory=list)
    in_flight: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port)

    async def send(self, *parts, pause_s=0.0):
        """The reply to a request that is sent whole, on a connection of its own."""
        reader, writer = await self.connect()
        self.in_flight += 1
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
            async with asyncio.timeout(HANG_S):
                text = await reader.read()
        except (ConnectionError, TimeoutError) as error:
            raise Lost(f"{parts[0][:80]!r}: {error!r}") from error
        finally:
            self.in_flight -= 1
            await closed(writer)
        found = re.match(rb"HTTP/1\.1 (\d+) ", text)
        if found is None:
            raise Lost(f"{parts[0][:80]!r}: {text[:80]!r}")
        head, _, body = text.partition(b"\r\n\r\n")
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        headers = {name.lower().decode(): value.strip().decode() for name, _, value in lines}
        return Reply(int(found[1]), headers, body)

    def judge(self, kind, reply, name, tensors, *, may_wait=True):
        """Count the reply: the right answer, or a refusal by rule; anything else is an error."""
        if reply.status == 503 and may_wait:
            assert reply.headers.get("retry-after"), reply
            self.seen[f"{kind}: refused"] += 1
            return
        assert reply.status == 200, f"{kind}: {reply}"
        document = reply.document
        want = self.expected(name, document["model_version"], tensors)
        for output in document["outputs"]:
            got = np.array(output["data"], np.float32).reshape(output["shape"])
            np.testing.assert_allclose(got, want[output["name"]], rtol=1e-4, atol=1e-5)
        self.seen[kind] += 1
        self.seen[f"{name} {document['model_version']}"] += 1


async def closed(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def aborted(writer):
    """Gone without a goodbye: the other side gets a reset."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def good_tiny(chaos):
    tensors = tiny_rows(chaos.chance.randrange(1000) + np.arange(chaos.chance.randint(1, 5)))
    reply = await chaos.send(post("/v2/models/tiny/infer", inference(tensors)))
    chaos.judge("tiny", reply, "tiny", tensors, may_wait=False)


async def good_binary(chaos):
    """The same, with the tensor as bytes behind the JSON, and the answer so as well."""
    tensors = tiny_rows(chaos.chance.randrange(1000) + np.arange(3))
    raw = tensors["x"].tobytes()
    item = {"name": "x", "shape": [3, 4], "datatype": "FP32"}
    item["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    headers = f"Inference-Header-Content-Length: {len(head)}\r\n"
    reply = await chaos.send(post("/v2/models/tiny/infer", head + raw, headers=headers))
    assert reply.status == 200, reply
    size = int(reply.headers["inference-header-content-length"])
    version = json.loads(reply.body[:size])["model_version"]
    want = chaos.expected("tiny", version, tensors)["y"]
    assert reply.body[size:] == want.tobytes()
    chaos.seen["binary"] += 1


async def faithful(chaos):
    """Many requests over one connection, some of them sent before the last one was answered."""
    reader, writer = await chaos.connect()
    for _ in range(10):
        sent = [
            tiny_rows([chaos.chance.randrange(1000)]) for _ in range(chaos.chance.randint(1, 4))
        ]
        for tensors in sent:
            request = post("/v2/models/tiny/infer", inference(tensors))
            writer.write(request.replace(b"Connection: close\r\n", b""))
        for tensors in sent:
            async with asyncio.timeout(HANG_S):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
                body = await reader.readexactly(size)
            status = int(head.split(b" ", 2)[1])
            chaos.judge("kept alive", Reply(status, {}, body), "tiny", tensors, may_wait=False)
    await closed(writer)


async def good_slow(chaos):
    tensors = slow_rows(chaos.chance.randrange(1000) + np.arange(chaos.chance.randint(1, 9)))
    reply = await chaos.send(post("/v2/models/slow/infer", inference(tensors)))
    chaos.judge("slow", reply, "slow", tensors)


async def in_no_hurry(chaos):
    """A body that dribbles in, and is answered all the same."""
    tensors = tiny_rows([chaos.chance.randrange(1000)])
    request = post("/v2/models/tiny/infer", inference(tensors))
    size = len(request) // 6 + 1
    parts = [request[start : start + size] for start in range(0, len(request), size)]
    reply = await chaos.send(*parts, pause_s=0.02)
    chaos.judge("dribbling", reply, "tiny", tensors, may_wait=False)


async def impatient(chaos):
    """A deadline that may be too short."""
    tensors = slow_rows([chaos.chance.randrange(1000)])
    headers = f"X-Request-Timeout-Ms: {chaos.chance.choice([1, 5, 2000])}\r\n"
    reply = await chaos.send(post("/v2/models/slow/infer", inference(tensors), headers=headers))
    if reply.status in (503, 504):  # told at once that it cannot be met, or afterwards
        assert reply.document["error"], reply
        chaos.seen["late"] += 1
    else:
        chaos.judge("in time", reply, "slow", tensors, may_wait=False)


async def poison(chaos):
    """A row that the engine cannot run: its neighbours are the good ones of `good_slow`."""
    tensors = slow_rows([chaos.chance.randrange(1000)]) | {"pick": np.array([9])}
    reply = await chaos.send(post("/v2/models/slow/infer", inference(tensors)))
    if reply.status == 503:
        assert reply.headers.get("retry-after"), reply
        return
    assert reply.status in (400, 500), reply
    assert "takes indices" in reply.document["error"], reply
    chaos.seen["poison"] += 1


async def overload(chaos):
    """More at once than may wait; each one is answered or told when to come again."""

    async def one(seed):
        tensors = slow_rows(seed + np.arange(16))
        reply = await chaos.send(post("/v2/models/slow/infer", inference(tensors)))
        chaos.judge("burst", reply, "slow", tensors)

    await asyncio.gather(*(one(seed) for seed in range(24)))
    await asyncio.sleep(0.3)


async def leaving(chaos):
    """A client that goes: after its request, in the middle of it, or in the head."""
    body = inference(slow_rows(np.arange(4)))
    request = post("/v2/models/slow/infer", body)
    cut = chaos.chance.choice([len(request), len(request) - 30, 20])
    _, writer = await chaos.connect()
    writer.write(request[:cut])
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    if chaos.chance.random() < 0.5:
        await asyncio.sleep(0.01)
    await aborted(writer)
    chaos.seen["left"] += 1


async def garbage(chaos):
    """Bytes that are no HTTP, and HTTP that is no request: told so, or hung up on."""
    noise = chaos.chance.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello \r\n\r\n",
            chaos.chance.randbytes(300) + b"\r\n\r\n",
            b"GET /v2/\x00 HTTP/9.9\r\n\r\n",
        ]
    )
    reader, writer = await chaos.connect()
    writer.write(noise)
    with contextlib.suppress(ConnectionError):
        writer.write_eof()
        async with asyncio.timeout(HANG_S):
            text = await reader.read()
        assert not text or b" 400 " in text.split(b"\r\n")[0], text
    await closed(writer)
    for body in (b'{"inputs": [', b"null", b"\xff\xfe", b"[" * 5000, inference({}), b""):
        reply = await chaos.send(post("/v2/models/tiny/infer", body))
        assert reply.status == 400, (body[:20], reply)
        assert reply.document["error"]
    chaos.seen["garbage"] += 1


async def oversize(chaos):
    """A body over the limit, announced or in chunks."""
    size = (LIMIT_MB << 20) + 1
    reply = await chaos.send(post("/v2/models/tiny/infer", b" " * size))
    assert reply.status == 413, reply
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    reply = await chaos.send(head, *[chunk] * 6, b"0\r\n\r\n")
    assert reply.status == 413, reply
    chaos.seen["oversize"] += 1
    await asyncio.sleep(0.05)


async def hanging(chaos):
    """A request whose end never comes, for as long as the chaos lasts."""
    _, writer = await chaos.connect()
    writer.write(post("/v2/models/slow/infer", b"{", length=5000))
    chaos.seen["hanging"] += 1
    await chaos.over.wait()
    await aborted(writer)


async def operator(chaos):
    """Shift the traffic of `tiny` to and fro, and reload both models beside it."""
    for path, body in (
        ("tiny/canary", {"version": "2", "percent": 30}),
        ("tiny/reload", {"version": "1"}),
        ("tiny/promote", {}),
        ("tiny/rollback", {}),
        ("slow/reload", {}),
        ("tiny/canary", {"version": "2", "percent": 70}),
        ("tiny/reload", {"version": "2"}),
        ("tiny/rollback", {}),
    ):
        reply = await chaos.send(post(f"/admin/v1/models/{path}", json.dumps(body).encode()))
        assert reply.status == 200, (path, reply)
        chaos.seen["operations"] += 1
        if chaos.over.is_set():
            return


async def reloading(chaos):
    """Load a model anew, also while the server is told to stop: done, or refused with a reason."""
    reply = await chaos.send(post("/admin/v1/models/slow/reload", b""))
    if reply.status == 503:
        assert "shutting down" in reply.document["error"], reply
        chaos.seen["operations refused"] += 1
    else:
        assert reply.status == 200, reply
        chaos.seen["operations"] += 1


CROWD = {
    good_tiny: 6,
    good_binary: 2,
    faithful: 2,
    good_slow: 6,
    in_no_hurry: 3,
    impatient: 2,
    poison: 2,
    overload: 1,
    leaving: 3,
    garbage: 2,
    oversize: 1,
    hanging: 3,
    operator: 1,
}


async def again_and_again(chaos, behaviour):
    while not chaos.over.is_set():
        await behaviour(chaos)


async def watch_memory(chaos, process):
    """What the server holds, in MiB, twice a second."""
    statm = Path(f"/proc/{process.pid}/statm")
    while not chaos.over.is_set():
        pages = int(statm.read_text().split()[1])  # noqa: ASYNC240 - no disk is behind it
        chaos.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))
        await asyncio.sleep(0.5)


async def crowd(chaos, process):
    """All of them for so many seconds."""
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_memory(chaos, process))
        for behaviour, count in CROWD.items():
            for _ in range(count):
                group.create_task(again_and_again(chaos, behaviour))
        await asyncio.sleep(chaos.seconds)
        chaos.over.set()


async def stopping(chaos, server):
    """SIGTERM in the middle. Clients go on until readiness says no, as a load balancer has them."""
    chaos.over.clear()

    async def until_not_ready(behaviour):
        while not chaos.over.is_set():
            await behaviour(chaos)

    get = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with asyncio.TaskGroup() as group:
        for behaviour in (good_tiny, good_slow, in_no_hurry, leaving, hanging):
            for _ in range(4):
                group.create_task(until_not_ready(behaviour))
        group.create_task(until_not_ready(reloading))
        await asyncio.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        while (await chaos.send(get)).status == 200:
            chaos.seen["asked whether it is ready"] += 1
        chaos.over.set()
        chaos.seen["in flight when it was not"] = chaos.in_flight


async def queues_are_empty(chaos):
    """Those who left are found out a moment later."""
    get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while True:
        text = (await chaos.send(get)).body.decode()
        rows = re.findall(r"^mlserve_queue_rows\{.*\} (\S+)$", text, re.MULTILINE)
        assert rows
        if set(rows) == {"0.0"}:
            return
        await asyncio.sleep(0.05)


@pytest.fixture
def expected(models):
    """What the engine of a version answers, in this process."""
    from mlserve_cli.package.package import Package

    engine = Package.open(models / "slow" / "1").engine()

    def answer(name, version, tensors):
        if name == "slow":
            return engine.run(tensors)
        return {"y": tensors["x"] * np.float32(FACTORS[version])}

    yield answer
    engine.close()


def assert_memory_is_flat(memory):
    """The last quarter against the second: what grows for ever grows there as well."""
    quarter = len(memory) // 4
    early, late = (statistics.median(memory[n * quarter : (n + 1) * quarter]) for n in (1, 3))
    assert late <= early * 1.1 + 8, f"{early:.0f} MiB became {late:.0f} MiB"


SOAK_S = float(os.environ.get("CHAOS_SECONDS", "60"))  # 600 for a long soak


@pytest.mark.parametrize("seconds", [6, pytest.param(SOAK_S, marks=pytest.mark.slow)])
def test_nobody_gets_a_wrong_answer_and_nobody_is_lost(up, models, expected, seconds, monkeypatch):
    monkeypatch.setenv("MLSERVE_MAX_BODY_MB", str(LIMIT_MB))
    monkeypatch.setenv("MLSERVE_MAX_QUEUE_ROWS", str(QUEUE_ROWS))
    monkeypatch.setenv("MLSERVE_SHUTDOWN_GRACE_S", "1")
    server = up(models)
    host, port = server.url.removeprefix("http://").split(":")
    chaos = Chaos(host, int(port), expected, seconds, random.Random(seconds))

    async def story():
        await crowd(chaos, server.process)
        async with asyncio.timeout(HANG_S):
            await queues_are_empty(chaos)
        assert (await asyncio.to_thread(server.get, "/readyz"))[0] == 200
        await stopping(chaos, server)

    began = time.monotonic()
    asyncio.run(asyncio.wait_for(story(), seconds + 2 * HANG_S))

    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output
    print(f"{time.monotonic() - began:.1f} s: {dict(sorted(chaos.seen.items()))}")
    print(f"memory in MiB: {[round(size) for size in chaos.memory][:: int(seconds) // 6]}")
    if seconds >= 30:
        assert_memory_is_flat(chaos.memory)
    # Each kind of trouble was really there, and so were the good ones.
    for kind in ("tiny", "slow", "dribbling", "in time", "late", "poison", "burst", "left"):
        assert chaos.seen[kind] > 0, kind
    for kind in (
        "binary",
        "kept alive",
        "garbage",
        "oversize",
        "hanging",
        "operations",
        "tiny 1",
        "tiny 2",
    ):
        assert chaos.seen[kind] > 0, kind
    assert chaos.seen["burst: refused"] + chaos.seen["slow: refused"] > 0
    assert chaos.seen["in flight when it was not"] > 0
