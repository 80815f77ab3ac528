"""The short way of a request: straight to its endpoint, however its bytes come in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

PATH = "/v2/models/iris/infer"


def message(rows: int) -> tuple[bytes, int]:
    """A binary request of that many rows, and how much of it is JSON."""
    data = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) % 7
    item = {
        "name": "x",
        "shape": [rows, 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": data.nbytes},
    }
    text = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    return text + data.tobytes(), len(text)


def head(body: bytes, text: int, **headers: str) -> bytes:
    lines = {
        "Host": "localhost",
        "Content-Length": str(len(body)),
        "Inference-Header-Content-Length": str(text),
        **headers,
    }
    return "\r\n".join(
        [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    ).encode()


class Client:
    """A socket that sends what it is told to, and reads whole answers."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.01)  # so that the server reads them one by one; harmless if it does not

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, self.file.read(int(headers["content-length"]))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def server(start: Any, gated: Any) -> Any:
    return start(gated, max_body_mb=2)


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    made = Client(server.url)
    yield made
    made.close()


def scores(reply: tuple[int, dict[str, str], bytes]) -> Any:
    status, headers, body = reply
    assert status == 200, body
    text = int(headers["inference-header-content-length"])
    found = json.loads(body[:text])["outputs"][0]
    return np.frombuffer(body[text:], np.float32).reshape(found["shape"])


@pytest.mark.parametrize("rows", [1, 3, 5000, 60_000])
def test_a_body_is_the_same_in_one_piece_and_in_many(client: Client, rows: int) -> None:
    body, text = message(rows)
    first = head(body, text)
    client.send(first + body)
    whole = scores(client.answer())
    cuts = sorted({1, text - 1, text + 1, text + 6, len(body) // 2, len(body) - 1})
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    client.send(first[:30], first[30:], *parts)
    pieces = scores(client.answer())
    assert whole.shape == (rows, 3)
    assert whole.tobytes() == pieces.tobytes()


def test_a_connection_goes_on_after_a_large_body(client: Client) -> None:
    for rows in (20_000, 1, 20_000, 2):
        body, text = message(rows)
        client.send(head(body, text), body)
        assert scores(client.answer()).shape == (rows, 3)


def test_requests_sent_before_their_answers_are_answered_in_their_order(client: Client) -> None:
    requests = [(rows, *message(rows)) for rows in (1, 5, 20_000, 2, 1)]
    client.socket.sendall(b"".join([head(body, text) + body for _, body, text in requests]))
    assert [len(scores(client.answer())) for _ in requests] == [rows for rows, _, _ in requests]


def test_a_client_that_leaves_in_the_middle_of_a_large_body_leaves_nothing(
    server: Any, client: Client
) -> None:
    body, text = message(60_000)
    client.send(head(body, text), body[:100_000])
    client.close()
    assert server.send(5.1)[0] == 200
    _, metrics = _metrics(server)
    assert 'mlserve_queue_rows{model="iris",version="1"} 0.0' in metrics


def test_a_body_over_the_limit_is_refused_before_it_is_sent(client: Client) -> None:
    body, text = message(200_000)
    client.send(head(body, text))
    status, headers, _ = client.answer()
    assert status == 413
    assert headers["connection"] == "close"


@pytest.mark.parametrize("query", ["", "?long"])
def test_bodies_that_never_end_take_no_more_memory_than_there_may_be(
    start: Any, gated: Any, query: str
) -> None:
    server = start(gated, max_body_mb=2, max_inflight_mb=1)
    body, text = message(60_000)
    announced = head(body, text).replace(PATH.encode(), (PATH + query).encode())
    stalled, refused = Client(server.url), Client(server.url)
    try:
        stalled.send(announced, body[:700_000])
        refused.send(announced, body[:700_000])
        status, headers, told = refused.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"max_inflight_mb" in told

        refused.send(body[700_000:])  # it is thrown away, and the connection goes on
        small, text = message(2)
        refused.send(head(small, text) + small)
        assert scores(refused.answer()).shape == (2, 3)

        stalled.send(body[700_000:])
        assert scores(stalled.answer()).shape == (60_000, 3)
        refused.send(announced, body)  # and nothing of the first counts any more
        assert scores(refused.answer()).shape == (60_000, 3)
    finally:
        stalled.close()
        refused.close()


def test_the_last_answer_says_so_and_closes(client: Client) -> None:
    body, text = message(1)
    client.send(head(body, text, Connection="close") + body)
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert client.file.read() == b""


def test_every_answer_has_an_id_and_says_where_its_time_went(client: Client) -> None:
    body, text = message(1)
    client.send(head(body, text) + body)
    _, headers, _ = client.answer()
    client.send(head(body, text, **{"X-Request-Id": "mine-7"}) + body)
    _, mine, _ = client.answer()
    assert headers["x-request-id"] != mine["x-request-id"] == "mine-7"
    stages = [part.split(";")[0].strip() for part in headers["server-timing"].split(",")]
    assert stages == ["queue", "compute", "total"]


def test_an_error_on_the_short_way_reads_like_any_other(client: Client) -> None:
    body, text = message(1)
    client.send(head(body[:-1], text) + body[:-1])
    status, headers, answer = client.answer()
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert "expecting 1 additional bytes" in json.loads(answer)["error"]


def _metrics(server: Any) -> tuple[int, str]:
    import urllib.request

    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as reply:
        return reply.status, reply.read().decode()
