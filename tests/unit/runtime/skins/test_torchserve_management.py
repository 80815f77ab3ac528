"""TorchServe's management API over operations with a memory."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from mlserve_cli.runtime.errors import NotFound
from mlserve_cli.runtime.traffic import TrafficRule


@dataclass
class FakeOperations:
    """Loads from a repository of names and versions; remembers who asked."""

    server: Any
    put: Any
    there: list[tuple[str, str]] = field(default_factory=list)
    did: list[Any] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)

    async def load(self, name: str, version: str | None = None, *, caller: Any) -> None:
        self.callers.add(caller.name)
        found = [each for each in self.there if each[0] == name and version in (None, each[1])]
        if not found:
            raise NotFound(f"failed to load '{name}'", hint="the packages are …")
        if found[-1][1] not in self.server.registry.versions(name):
            self.put(*found[-1])

    async def unload(self, name: str, version: str, *, caller: Any) -> None:
        self.callers.add(caller.name)
        self.did.append(("unload", name, version))
        self.server.registry.remove(name, version)

    async def promote(self, name: str, version: str, *, caller: Any) -> None:
        self.callers.add(caller.name)
        self.server.traffic.set_rule(name, TrafficRule(default=version))

    async def resize(self, name: str, version: str, instances: int, *, caller: Any) -> None:
        self.callers.add(caller.name)
        self.did.append(("resize", name, version, instances))
        self.server.registry.get(name, version).batcher.workers = instances


@pytest.fixture
def operations(server: Any, load: Any) -> FakeOperations:
    def put(name: str, version: str) -> None:
        model = load(name=name, version=version)
        model.batcher = SimpleNamespace(workers=2, max_batch=32, queued_rows=3)
        model.sizing = SimpleNamespace(device="cpu", max_delay_ms=1.5)

    made = FakeOperations(server, put)
    server.operations = made
    put("echo", "1.0")
    put("echo", "2.0")
    put("other", "1")
    made.there = [("echo", "3.0"), ("new", "1"), ("new", "2")]
    return made


def error(reply: Any) -> tuple[int, str, str]:
    document = reply.json()
    assert document["code"] == reply.status_code
    assert set(document) == {"code", "type", "message"}
    return reply.status_code, document["type"], document["message"]


@pytest.fixture(autouse=True)
def _loaded(operations: FakeOperations) -> None:
    """Every test has these models."""


def test_models_are_listed_a_page_at_a_time(client: Any) -> None:
    first = client.get("/models", params={"limit": 1})
    assert first.json() == {
        "models": [{"modelName": "echo", "modelUrl": "echo/2.0"}],
        "nextPageToken": "1",
    }
    assert first.headers["x-request-id"]
    rest = client.get("/models", params={"next_page_token": first.json()["nextPageToken"]})
    assert rest.json() == {"models": [{"modelName": "other", "modelUrl": "other/1"}]}


def test_a_model_is_described(client: Any) -> None:
    (found,) = client.get("/models/echo").json()
    workers = found.pop("workers")
    assert found == {
        "modelName": "echo",
        "modelVersion": "2.0",
        "modelUrl": "echo/2.0",
        "runtime": "onnxruntime",
        "minWorkers": 2,
        "maxWorkers": 2,
        "batchSize": 32,
        "maxBatchDelay": 1,
        "responseTimeout": 0,
        "startupTimeout": 0,
        "maxRetryTimeoutInSec": 0,
        "loadedAtStartup": True,
        "jobQueueStatus": {"remainingCapacity": 1021, "pendingRequests": 3},
    }
    assert [worker["id"] for worker in workers] == ["9000", "9001"]
    assert {worker["pid"] for worker in workers} == {os.getpid()}
    assert workers[0]["status"] == "READY"
    assert workers[0]["memoryUsage"] > 1 << 20


def test_one_version_or_all_are_described(client: Any) -> None:
    def versions(path: str) -> list[str]:
        return [found["modelVersion"] for found in client.get(f"/models/{path}").json()]

    assert versions("echo/1.0") == ["1.0"]
    assert versions("echo/all") == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "nope", "ModelNotFoundException"),
        ("GET", "nope/all", "ModelNotFoundException"),
        ("GET", "echo/9.9", "ModelVersionNotFoundException"),
        ("PUT", "nope", "ModelNotFoundException"),
        ("PUT", "echo/9.9/set-default", "ModelVersionNotFoundException"),
        ("DELETE", "nope", "ModelNotFoundException"),
        ("DELETE", "echo/9.9", "ModelVersionNotFoundException"),
    ],
)
def test_what_is_not_there_is_a_404(client: Any, method: str, path: str, kind: str) -> None:
    status, found, message = error(client.request(method, f"/models/{path}"))
    assert (status, found) == (404, kind)
    assert ("Model not found: nope" in message) == (kind == "ModelNotFoundException")


@pytest.mark.parametrize("how", ["query", "json"])
def test_a_package_of_the_repository_is_registered(client: Any, how: str) -> None:
    wanted = {"url": "new/1", "initial_workers": 4, "synchronous": "true"}
    reply = client.post("/models", **({"params": wanted} if how == "query" else {"json": wanted}))
    assert reply.json() == {"status": 'Model "new" Version: 1 registered with 4 initial workers'}
    (found,) = client.get("/models/new").json()
    assert (found["minWorkers"], found["loadedAtStartup"]) == (4, False)


def test_without_a_version_the_newest_is_registered(client: Any) -> None:
    reply = client.post("/models?url=new.mar&model_name=new")
    assert reply.json() == {"status": 'Model "new" Version: 2 registered with 2 initial workers'}


def test_what_is_registered_already_is_a_conflict(client: Any) -> None:
    text = "Model version 2.0 is already registered for model echo"
    assert error(client.post("/models?url=echo/2.0")) == (409, "ConflictStatusException", text)
    client.post("/models?url=echo")
    status, _, message = error(client.post("/models?url=echo"))
    assert (status, message) == (409, "Model version 3.0 is already registered for model echo")


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, "Parameter url is required."),
        ("url=https://example.com/m.mar", 400, "is no package of the repository"),
        ("url=a/b/c", 400, "is no package of the repository"),
        ("url=new&model_name=mine", 400, "cannot be registered as 'mine'"),
        ("url=nope", 404, "Model not found at: nope"),
        ("url=new&initial_workers=-1", 400, "initial_workers is '-1'"),
        ("url=new&initial_workers=99999999999999999999", 400, "must be a whole number"),
    ],
)
def test_what_cannot_be_registered_says_why(
    client: Any, query: str, status: int, text: str
) -> None:
    found, _, message = error(client.post(f"/models?{query}"))
    assert found == status
    assert text in message


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"url": 1}'])
def test_a_wrong_body_is_a_400(client: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert error(client.post("/models", content=body, headers=headers))[0] == 400


@pytest.mark.parametrize("version", ["", "/1.0"])
def test_workers_are_scaled(client: Any, operations: Any, version: str) -> None:
    reply = client.put(f"/models/echo{version}?min_worker=3&synchronous=true")
    assert reply.json() == {"status": "Workers scaled to 3 for model: echo"}
    assert operations.did == [("resize", "echo", version.strip("/") or "2.0", 3)]
    reply = client.put(f"/models/echo{version}?min_worker=1&max_worker=5")
    assert (reply.status_code, reply.json()) == (202, {"status": "Processing worker updates..."})
    assert len(operations.did) == 1  # 3 lies between 1 and 5


@pytest.mark.parametrize("query", ["min_worker=0&max_worker=0", "min_worker=2&max_worker=1"])
def test_workers_that_cannot_be_are_a_400(client: Any, operations: Any, query: str) -> None:
    assert error(client.put(f"/models/echo?{query}"))[:2] == (400, "BadRequestException")
    assert operations.did == []


def test_the_default_version_is_set_and_goes_last(client: Any, operations: Any) -> None:
    reply = client.put("/models/echo/1.0/set-default")
    assert 'for model "echo" to "1.0"' in reply.json()["status"]
    assert client.get("/models/echo").json()[0]["modelVersion"] == "1.0"
    for path in ("echo", "echo/1.0"):
        text = "Cannot remove default version for model echo"
        refused = (403, "InvalidModelVersionException", text)
        assert error(client.delete(f"/models/{path}")) == refused
    assert client.delete("/models/echo/2.0").json() == {"status": 'Model "echo" unregistered'}
    assert client.delete("/models/echo").status_code == 200
    assert operations.did == [("unload", "echo", "2.0"), ("unload", "echo", "1.0")]
    assert operations.callers == {"anonymous"}
    assert client.get("/models/echo").status_code == 404


def test_a_default_that_is_not_loaded_gives_way_to_the_newest(client: Any, server: Any) -> None:
    server.traffic.set_rule("echo", TrafficRule(default="1.0"))
    server.registry.remove("echo", "1.0")
    assert client.get("/models/echo").json()[0]["modelVersion"] == "2.0"


def test_a_bug_of_ours_tells_an_id_and_nothing_else(client: Any, operations: Any) -> None:
    async def broken(*arguments: Any, **named: Any) -> None:
        raise ValueError("a secret")

    operations.load = broken
    status, kind, message = error(client.post("/models?url=new"))
    assert (status, kind) == (500, "InternalServerException")
    assert "secret" not in message


def test_a_client_that_leaves_while_it_registers_a_model_is_no_bug_of_ours(
    server: Any, operations: FakeOperations, caplog: pytest.LogCaptureFixture
) -> None:
    from mlserve_cli.runtime.app import build_app

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/models",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(build_app(server)(scope, receive, send))

    assert sent[0]["status"] == 400
    assert "request failed" not in caplog.text
