"""A connection between a real socket and uvicorn's parser, with an application that echoes."""

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from mlserve_cli.runtime.connection import HEAD_BYTES, Connection, without_offer

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def talk(*parts, silence_s=60.0):
    """What comes back for `parts` until the server closes the connection."""

    class Patient(Connection):
        pass

    Patient.silence_s = silence_s

    async def client():
        config = uvicorn.Config(echo, http=Patient, ws="none", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Patient(config, ServerState(), {}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        with contextlib.suppress(ConnectionError):  # closed while more of a head was on its way
            for part in parts:
                writer.write(part)
                await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        listener.close()
        return answer

    return asyncio.run(client())


def test_a_head_without_end_is_refused():
    lines = (b"x: %s\r\n" % (b"a" * 1000) for _ in range(4 * HEAD_BYTES // 1000))
    answer = talk(b"GET / HTTP/1.1\r\nHost: a\r\n", *lines)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_an_address_without_end_is_refused():
    answer = talk(b"GET /", *[b"a" * 1000] * (4 * HEAD_BYTES // 1000))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_many_requests_at_once_are_no_long_head():
    several = (POST + b"\r\nhello") * 2000
    last = POST + b"Connection: close\r\n\r\nhello"
    answer = talk(several + last[:40], last[40:])
    assert answer.count(b"HTTP/1.1 200 OK") == 2001


@pytest.mark.parametrize(
    "part", [b"", b"GET / HT", POST, POST + b"\r\nhel"], ids=["nothing", "line", "head", "body"]
)
def test_who_stops_in_the_middle_is_let_go(part):
    assert talk(part, silence_s=0.05) == b""


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
@pytest.mark.parametrize("value", [b" h2c", b"h2c", b" H2C", b" TLS/1.3, h2c", b" websocket"])
def test_an_offer_of_another_protocol_does_not_cost_a_request_its_body(name, value, caplog):
    offer = b"Connection: Upgrade, HTTP2-Settings, close\r\n%s:%s\r\nHTTP2-Settings: AA\r\n" % (
        name,
        value,
    )
    assert talk(POST + offer + b"\r\nhello").endswith(b"\r\n\r\nhello")
    assert not caplog.records  # anybody could fill the log with what was said of each


@pytest.mark.parametrize(
    "data",
    [
        POST + b"\r\n\r\nUpgrade: h2c\r\n",
        POST + b"X: h2c\r\n\r\n",
        POST + b"Upgrade-Insecure-Requests: 1\r\n\r\n",
        POST + b"X: Upgrade: h2c\r\n\r\n",
        b"h2c",
        b"",
    ],
)
def test_only_an_offer_in_a_head_is_left_out(data):
    assert without_offer(data) == data
