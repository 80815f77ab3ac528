"""The crowd's HTTP clients, on sockets of their own: good ones, and every other kind."""

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass

import numpy as np

from .crowd import HANG_S, LIMIT_MB, Lost
from .models import POISON, slow_rows, tiny_rows


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


async def connect(chaos):
    return await asyncio.open_connection(chaos.host, chaos.port)


async def send(chaos, *parts, pause_s=0.0):
    """The reply to a request that is sent whole, on a connection of its own."""
    reader, writer = await connect(chaos)
    chaos.in_flight += 1
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
        chaos.in_flight -= 1
        await closed(writer)
    found = re.match(rb"HTTP/1\.1 (\d+) ", text)
    if found is None:
        raise Lost(f"{parts[0][:80]!r}: {text[:80]!r}")
    head, _, body = text.partition(b"\r\n\r\n")
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = {name.lower().decode(): value.strip().decode() for name, _, value in lines}
    return Reply(int(found[1]), headers, body)


async def get(chaos, path):
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return await send(chaos, head.encode())


def judge(chaos, kind, reply, name, tensors, *, may_wait=True):
    """Count the reply: the right answer, or a refusal by rule; anything else is an error."""
    if reply.status == 503 and may_wait:
        assert reply.headers.get("retry-after"), reply
        chaos.seen[f"{kind}: refused"] += 1
        return
    assert reply.status == 200, f"{kind}: {reply}"
    document = reply.document
    outputs = {
        output["name"]: np.array(output["data"], np.float32).reshape(output["shape"])
        for output in document["outputs"]
    }
    chaos.right(kind, name, document["model_version"], tensors, outputs)


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
    tensors = tiny_rows(chaos.seed() + np.arange(chaos.chance.randint(1, 5)))
    reply = await send(chaos, post("/v2/models/tiny/infer", inference(tensors)))
    judge(chaos, "tiny", reply, "tiny", tensors, may_wait=False)


async def good_binary(chaos):
    """The same, with the tensor as bytes behind the JSON, and the answer so as well."""
    tensors = tiny_rows(chaos.seed() + np.arange(3))
    raw = tensors["x"].tobytes()
    item = {"name": "x", "shape": [3, 4], "datatype": "FP32"}
    item["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    headers = f"Inference-Header-Content-Length: {len(head)}\r\n"
    reply = await send(chaos, post("/v2/models/tiny/infer", head + raw, headers=headers))
    assert reply.status == 200, reply
    size = int(reply.headers["inference-header-content-length"])
    version = json.loads(reply.body[:size])["model_version"]
    want = chaos.expected("tiny", version, tensors)["y"]
    assert reply.body[size:] == want.tobytes()
    chaos.seen["binary"] += 1


async def faithful(chaos):
    """Many requests over one connection, some of them sent before the last one was answered."""
    reader, writer = await connect(chaos)
    for _ in range(10):
        sent = [tiny_rows([chaos.seed()]) for _ in range(chaos.chance.randint(1, 4))]
        for tensors in sent:
            request = post("/v2/models/tiny/infer", inference(tensors))
            writer.write(request.replace(b"Connection: close\r\n", b""))
        for tensors in sent:
            async with asyncio.timeout(HANG_S):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
                body = await reader.readexactly(size)
            status = int(head.split(b" ", 2)[1])
            judge(chaos, "kept alive", Reply(status, {}, body), "tiny", tensors, may_wait=False)
    await closed(writer)


async def good_slow(chaos):
    tensors = slow_rows(chaos.seed() + np.arange(chaos.chance.randint(1, 9)))
    reply = await send(chaos, post("/v2/models/slow/infer", inference(tensors)))
    judge(chaos, "slow", reply, "slow", tensors)


async def in_no_hurry(chaos):
    """A body that dribbles in, and is answered all the same."""
    tensors = tiny_rows([chaos.seed()])
    request = post("/v2/models/tiny/infer", inference(tensors))
    size = len(request) // 6 + 1
    parts = [request[start : start + size] for start in range(0, len(request), size)]
    reply = await send(chaos, *parts, pause_s=0.02)
    judge(chaos, "dribbling", reply, "tiny", tensors, may_wait=False)


async def impatient(chaos):
    """A deadline that may be too short."""
    tensors = slow_rows([chaos.seed()])
    headers = f"X-Request-Timeout-Ms: {chaos.chance.choice([1, 5, 2000])}\r\n"
    reply = await send(chaos, post("/v2/models/slow/infer", inference(tensors), headers=headers))
    if reply.status in (503, 504):  # told at once that it cannot be met, or afterwards
        assert reply.document["error"], reply
        chaos.seen["late"] += 1
    else:
        judge(chaos, "in time", reply, "slow", tensors, may_wait=False)


async def poison(chaos):
    """A row that the engine cannot run: its neighbours are the good ones of `good_slow`."""
    tensors = slow_rows([chaos.seed()]) | {"pick": np.array([POISON])}
    reply = await send(chaos, post("/v2/models/slow/infer", inference(tensors)))
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
        reply = await send(chaos, post("/v2/models/slow/infer", inference(tensors)))
        judge(chaos, "burst", reply, "slow", tensors)

    await asyncio.gather(*(one(seed) for seed in range(24)))
    await asyncio.sleep(0.3)


async def leaving(chaos):
    """A client that goes: after its request, in the middle of it, or in the head."""
    body = inference(slow_rows(np.arange(4)))
    request = post("/v2/models/slow/infer", body)
    cut = chaos.chance.choice([len(request), len(request) - 30, 20])
    _, writer = await connect(chaos)
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
    reader, writer = await connect(chaos)
    writer.write(noise)
    with contextlib.suppress(ConnectionError):
        writer.write_eof()
        async with asyncio.timeout(HANG_S):
            text = await reader.read()
        assert not text or b" 400 " in text.split(b"\r\n")[0], text
    await closed(writer)
    for body in (b'{"inputs": [', b"null", b"\xff\xfe", b"[" * 5000, inference({}), b""):
        reply = await send(chaos, post("/v2/models/tiny/infer", body))
        assert reply.status == 400, (body[:20], reply)
        assert reply.document["error"]
    chaos.seen["garbage"] += 1


async def oversize(chaos):
    """A body over the limit, announced or in chunks."""
    size = (LIMIT_MB << 20) + 1
    reply = await send(chaos, post("/v2/models/tiny/infer", b" " * size))
    assert reply.status == 413, reply
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    reply = await send(chaos, head, *[chunk] * 6, b"0\r\n\r\n")
    assert reply.status == 413, reply
    chaos.seen["oversize"] += 1
    await asyncio.sleep(0.05)


async def hanging(chaos):
    """A request whose end never comes, for as long as the chaos lasts."""
    _, writer = await connect(chaos)
    writer.write(post("/v2/models/slow/infer", b"{", length=5000))
    chaos.seen["hanging"] += 1
    await chaos.over.wait()
    await aborted(writer)


GOOD = {good_tiny: 6, good_binary: 2, faithful: 2, good_slow: 6, in_no_hurry: 3}
"""Who gets an answer, or is told when to come again."""

BAD = {impatient: 2, poison: 2, overload: 1, leaving: 3, garbage: 2, oversize: 1, hanging: 3}
"""Who asks too much of the server, or goes."""
