"""Many clients at once, good, bad and gone: everyone gets the right answer or the right error."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from typing import Any

import httpx2
import numpy as np

REQUESTS = 500


def body(value: float, rows: int) -> dict[str, Any]:
    data = np.full((rows, 3), value, np.float32)
    item = {"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": data.ravel().tolist()}
    return {"id": str(value), "inputs": [item]}


def test_five_hundred_clients_with_some_cancelled_and_some_malformed(served: Any) -> None:
    chance = random.Random(7)
    url = f"{served.url}/v2/models/dbl/infer"
    seen = {"good": 0, "bad": 0, "gone": 0, "row": 0}

    async def good(client: Any, number: int) -> None:
        rows = chance.randint(1, 9)
        reply = await client.post(url, json=body(number, rows))
        assert reply.status_code == 200, reply.text
        assert reply.json()["id"] == str(number)
        assert reply.json()["outputs"][0]["data"] == [number * 2.0] * rows * 3
        seen["good"] += 1

    async def bad(client: Any, number: int) -> None:
        text = json.dumps(body(number, 2))
        broken = chance.choice(
            [text[:-1], text.replace("FP32", "INT64"), text.replace("[2, 3]", "[9, 3]"), "null"]
        )
        reply = await client.post(url, content=broken)
        assert reply.status_code == 400, broken
        assert reply.json()["error"]
        seen["bad"] += 1

    async def gone(client: Any, number: int) -> None:
        host, port = served.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        text = json.dumps(body(number, 3)).encode()
        length = len(text) + chance.choice([0, 10])  # some leave within their body
        writer.write(
            b"POST /v2/models/dbl/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
        )
        writer.write(text)
        await writer.drain()
        writer.transport.abort()
        seen["gone"] += 1

    async def row(client: Any, number: int) -> None:
        reply = await client.post(f"{served.url}/predict/price", json={"area": number, "rooms": 1})
        assert reply.json()["predictions"] == [{"value": number + 1.0}]
        seen["row"] += 1

    async def storm() -> None:
        limits = httpx2.Limits(max_connections=64)
        async with httpx2.AsyncClient(limits=limits, timeout=120) as client:
            kinds = [chance.choice([good, good, good, bad, gone, row]) for _ in range(REQUESTS)]
            async with asyncio.TaskGroup() as group:
                for number, kind in enumerate(kinds):
                    group.create_task(kind(client, number))

    asyncio.run(storm())
    assert sum(seen.values()) == REQUESTS
    assert min(seen.values()) > 20
    metrics = httpx2.get(f"{served.url}/metrics").text
    assert 'mlserve_queue_rows{model="dbl",version="2"} 0.0' in metrics
    assert httpx2.get(f"{served.url}/readyz").status_code == 200


def exchange(served: Any, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes as they are and read until the server closes."""
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = b"POST /v2/models/dbl/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_a_body_in_many_small_chunks_is_put_together(served: Any) -> None:
    text = json.dumps(body(3, 2)).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    reply = exchange(served, head, chunks[:100], chunks[100:], pause_s=0.01)
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"6.0" in reply


def test_a_chunked_body_without_end_is_refused_at_the_limit(served: Any) -> None:
    chunk = b"100000\r\n" + b"0" * (1 << 20) + b"\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    reply = exchange(served, head, *[chunk] * 6, b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413")
    assert b'{"error":"the body is larger than' in reply


def test_a_length_over_the_limit_is_refused_before_the_body(served: Any) -> None:
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_more_rows_than_a_batch_are_answered_as_one(served: Any) -> None:
    reply = httpx2.post(f"{served.url}/v2/models/words/infer", json=words(3000), timeout=60)
    assert reply.json()["outputs"][0]["data"] == [str(number) for number in range(3000)]


def test_more_rows_than_the_queue_takes_are_answered_or_refused_with_a_sentence(
    served: Any,
) -> None:
    reply = httpx2.post(f"{served.url}/v2/models/words/infer", json=words(9000), timeout=60)
    assert reply.status_code in (200, 503)
    assert reply.status_code == 200 or reply.json()["error"]


def words(count: int) -> dict[str, Any]:
    data = [str(number) for number in range(count)]
    return {"inputs": [{"name": "x", "shape": [count], "datatype": "BYTES", "data": data}]}


def test_one_deadline_that_has_passed_is_told_so(served: Any) -> None:
    document = words(3000) | {"parameters": {"timeout": 1}}
    reply = httpx2.post(f"{served.url}/v2/models/words/infer", json=document, timeout=60)
    assert reply.status_code == 503  # as Triton has it
    assert "Request timeout expired" in reply.json()["error"]
    assert reply.headers["retry-after"] == "1"
