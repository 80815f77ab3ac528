from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mlserve_cli.runtime import body
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.body import Disconnected
from mlserve_cli.runtime.errors import TooLarge


class Client:
    """Sends the chunks of its script, then stays, or leaves."""

    def __init__(self, *chunks: bytes, leaves: bool = False) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1 or leaves}
            for index, chunk in enumerate(chunks)
        ]
        self.leaves = asyncio.Event()
        if leaves:
            self.leaves.set()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def post(self, app: Any, path: str, **headers: str) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        }
        await app(scope, self.receive, self.send)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


def read(client: Client, *, limit_bytes: int = 10, **headers: bytes) -> Any:
    named = {key.replace("_", "-").encode(): value for key, value in headers.items()}
    return body.read(named, client.receive, limit_bytes=limit_bytes)


def test_one_message_is_the_body_without_a_copy() -> None:
    text = b"0123456789"
    assert run(read(Client(text))) is text


def test_chunks_are_joined() -> None:
    assert run(read(Client(*[b"a"] * 10))) == b"a" * 10


def test_too_much_is_refused_as_soon_as_it_has_come_in() -> None:
    client = Client(*[b"aaaa"] * 100)
    with pytest.raises(TooLarge, match="10 bytes"):
        run(read(client))
    assert len(client.messages) == 97


def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    client = Client(b"x")
    with pytest.raises(TooLarge):
        run(read(client, content_length=b"11"))
    assert len(client.messages) == 1


def test_a_client_that_leaves_within_its_body_has_left() -> None:
    with pytest.raises(Disconnected):
        run(read(Client(b"a", leaves=True)))


def test_a_client_that_leaves_cancels_its_inference(server: Any, load: Any) -> None:
    load()
    server.dataplane.never = True

    async def leave() -> Client:
        client = Client(b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}')
        asking = asyncio.create_task(client.post(build_app(server), "/v2/models/dbl/infer"))
        await server.dataplane.asked.wait()
        client.leaves.set()
        await asking
        return client

    assert run(leave()).sent == []
    assert server.dataplane.cancelled == 1


def test_a_quick_answer_is_given_without_watching_the_client(server: Any, load: Any) -> None:
    load()
    client = Client(b'{"x":[1,2,3]}')
    run(client.post(build_app(server), "/predict/dbl"))
    assert [message["type"] for message in client.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert client.sent[0]["status"] == 200


def test_a_cancellation_from_elsewhere_is_not_taken_for_a_client_that_left() -> None:
    async def cancelled() -> None:
        with body.Watch(Client().receive):
            asking = asyncio.current_task()
            assert asking is not None
            asyncio.get_running_loop().call_soon(asking.cancel)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        run(cancelled())


def test_a_refused_body_is_read_on_so_that_its_sender_sees_the_answer(
    server: Any, load: Any
) -> None:
    load()
    client = Client(*[b"0" * (1 << 20)] * 8)
    run(client.post(build_app(server), "/v2/models/dbl/infer"))
    assert client.sent[0]["status"] == 413
    assert (b"connection", b"close") in client.sent[0]["headers"]
    assert client.messages == []
    assert [message.get("more_body", False) for message in client.sent[1:]] == [True, False]
