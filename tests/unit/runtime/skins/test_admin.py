"""The admin API: strict bodies, whole answers, the server's own words where it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mlserve_cli.runtime import routes
from mlserve_cli.runtime.index import ModelStatus
from mlserve_cli.runtime.monitoring.metrics import ModelMetrics
from mlserve_cli.runtime.operations import Operations
from mlserve_cli.runtime.readiness import Readiness
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.traffic import Traffic


class FakeLifecycle:
    """Says what is loaded, and one version that could not be."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.asked: list[Any] = []

    def index(self) -> list[ModelStatus]:
        loaded = [
            ModelStatus(model.manifest.name, model.manifest.version, "READY")
            for model in self.registry.models()
        ]
        return [*loaded, ModelStatus("iris", "3", "UNAVAILABLE", "its answers differ")]

    async def load(self, name: str, version: str | None = None, *, reload: bool = False) -> None:
        self.asked.append(("load", name, version, reload))

    async def unload(self, name: str, version: str | None = None) -> None:
        self.asked.append(("unload", name, version))

    async def resize(self, name: str, version: str, count: int) -> None:
        self.asked.append(("resize", name, version, count))

    async def rescan(self) -> None:
        self.asked.append(("rescan",))


class Loaded(SimpleNamespace):
    """A model; the very same one is meant, as of real ones, not one that looks alike."""

    __hash__ = object.__hash__


def model(version: str) -> Any:
    facts = SimpleNamespace(name="iris", version=version, variant="fp32", digest="sha256:0")
    metrics = ModelMetrics("iris", version)
    metrics.answered("oip", 200, 0.002)
    metrics.answered("oip", 500, 0.001)
    batcher = SimpleNamespace(workers=2, max_batch=8)
    return Loaded(
        manifest=facts, path="/x", ready=True, batcher=batcher, metrics=metrics, shadows=()
    )


@pytest.fixture
def server(tmp_path: Any) -> Any:
    found = SimpleNamespace(
        root=tmp_path,
        settings=SimpleNamespace(state=".mlserve", models="models", max_package_mb=1),
        guard=SimpleNamespace(enabled=True),
        memory=None,
        registry=Registry(),
        accepting=True,
        ready=lambda: True,
    )
    for version in ("1", "2"):
        found.registry.add(model(version))
    found.traffic = Traffic(found.registry)
    found.readiness = Readiness(found)
    found.lifecycle = FakeLifecycle(found.registry)
    found.operations = Operations(found)
    yield found
    found.operations.close()


@pytest.fixture
def client(server: Any) -> Any:
    app = Starlette(routes=routes.admin(server), exception_handlers=routes.exception_handlers)
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def shares(document: Any) -> dict[str, float]:
    return {entry["version"]: entry["share"] for entry in document["versions"]}


def test_status_has_every_version_with_its_share_and_figures(client: Any) -> None:
    document = client.get("/admin/v1/status").json()

    assert document["ready"] is True
    assert document["repository"].endswith("/models")
    one, two, three = document["models"]
    assert (one["share"], two["share"], three["share"]) == (0.0, 100.0, 0.0)
    assert (one["requests"], one["failures"], one["mean_ms"]) == (2, 1, 2.0)
    assert (three["state"], three["reason"]) == ("UNAVAILABLE", "its answers differ")
    assert "requests" not in three


def test_a_canary_is_answered_with_the_shares_that_hold_now(client: Any) -> None:
    body = {"version": "2", "percent": 10, "sticky": "header:X-User"}
    reply = client.post("/admin/v1/models/iris/canary", json=body)

    document = reply.json()
    assert reply.status_code == 200
    assert shares(document) == {"1": 90.0, "2": 10.0, "3": 0.0}
    assert document["rule"]["sticky"] == "header:X-User"
    assert document["kept"] is True
    assert client.get("/admin/v1/models/iris/rule").json()["rule"] == document["rule"]


def test_promote_and_rollback_need_no_body(client: Any) -> None:
    assert shares(client.post("/admin/v1/models/iris/promote", json={"version": "1"}).json()) == {
        "1": 100.0,
        "2": 0.0,
        "3": 0.0,
    }
    assert shares(client.post("/admin/v1/models/iris/rollback").json())["2"] == 100.0


def test_a_rule_is_put_read_and_deleted(client: Any) -> None:
    rule = {"default": "1", "shadow": "2", "shadow_share": 50}
    put = client.put("/admin/v1/models/iris/rule", json=rule).json()
    assert put["rule"]["shadow"] == "2"
    assert [entry["shadow"] for entry in put["versions"]] == [0.0, 50.0, 0.0]

    assert client.delete("/admin/v1/models/iris/rule").json()["rule"] is None


def test_labels_come_and_go(client: Any) -> None:
    put = client.put("/admin/v1/models/iris/labels/stable", json={"version": "1"}).json()
    assert put["versions"][0]["labels"] == ["stable"]

    gone = client.delete("/admin/v1/models/iris/labels/stable")
    assert gone.json()["rule"]["labels"] == {}
    assert client.delete("/admin/v1/models/iris/labels/stable").status_code == 404


def test_loading_unloading_and_resizing_reach_the_lifecycle(client: Any, server: Any) -> None:
    model = "/admin/v1/models/iris"
    assert client.post(f"{model}/load", json={"version": "2", "hold": True}).status_code == 200
    assert client.post(f"{model}/reload").status_code == 200
    assert client.post(f"{model}/unload", json={"version": "1"}).status_code == 200
    assert client.put(f"{model}/instances", json={"count": 3}).status_code == 200
    assert client.post("/admin/v1/rescan").status_code == 200

    assert server.lifecycle.asked == [
        ("load", "iris", "2", False),
        ("load", "iris", None, True),
        ("unload", "iris", "1"),
        ("resize", "iris", "2", 3),
        ("rescan",),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("canary", {"version": "2", "percent": 101}),
        ("canary", {"version": "2", "percent": -1}),
        ("canary", {"version": "2", "percent": "many"}),
        ("canary", {"version": 2, "percent": 1}),
        ("canary", {"percent": 1}),
        ("promote", {"verison": "2"}),
        ("load", [1]),
        ("load", "no"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_what_is_allowed(
    client: Any, path: str, body: Any
) -> None:
    reply = client.post(f"/admin/v1/models/iris/{path}", json=body)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith("the body does not fit: ")
    assert "version" in reply.json()["hint"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"version": "\xff"}', b"[" * 9000])
def test_a_body_that_is_no_json_is_refused(client: Any, content: bytes) -> None:
    assert client.post("/admin/v1/models/iris/promote", content=content).status_code == 400


def test_a_body_larger_than_any_operation_needs_is_refused(client: Any) -> None:
    reply = client.post("/admin/v1/models/iris/promote", content=b" " * 70_000)

    assert reply.status_code == 413


def test_a_package_needs_a_server_with_keys_and_a_folder(client: Any, server: Any) -> None:
    path = "/admin/v1/packages/iris/3"
    assert client.put(path, content=b"no tar").status_code == 409  # there is no such folder
    repository = server.root / "models"
    repository.mkdir()
    assert client.put(path, content=b"no tar").status_code == 400
    assert client.put(path, content=b"\0" * (2 << 20)).status_code == 413
    (repository / "manifest.json").write_text("{}")
    assert client.put(path, content=b"").status_code == 409
    server.guard.enabled = False
    assert client.put(path, content=b"").status_code == 403
    assert [file.name for file in repository.iterdir()] == ["manifest.json"]


def test_a_default_that_is_gone_leaves_its_share_to_the_newest(client: Any, server: Any) -> None:
    rule = {"default": "1", "weights": {"2": 10}}
    client.put("/admin/v1/models/iris/rule", json=rule)
    server.registry.remove("iris", "1")

    assert shares(client.get("/admin/v1/models/iris").json()) == {"2": 100.0, "3": 0.0}


def test_what_is_unknown_is_not_found(client: Any) -> None:
    assert client.get("/admin/v1/models/rose").status_code == 404
    assert client.post("/admin/v1/models/rose/promote", json={"version": "1"}).status_code == 404
    assert client.post("/admin/v1/models/iris/promote", json={"version": "9"}).status_code == 404
    body = {"version": "3", "percent": 5}
    assert client.post("/admin/v1/models/iris/canary", json=body).status_code == 404


def test_what_the_state_does_not_allow_is_a_conflict(client: Any) -> None:
    assert client.post("/admin/v1/models/iris/promote").status_code == 409
    assert client.post("/admin/v1/models/iris/rollback").status_code == 409


def test_the_audit_log_tells_who_did_what(client: Any) -> None:
    client.post("/admin/v1/models/iris/promote", json={"version": "1"})
    client.post("/admin/v1/models/iris/promote", json={"version": "9"})

    entries = client.get("/admin/v1/audit?limit=5").json()["entries"]

    assert [entry["version"] for entry in entries] == ["1", "9"]
    assert entries[0]["outcome"] == "done"
    assert "is not found" in entries[1]["outcome"]
    assert {entry["who"] for entry in entries} == {"anonymous"}
    for limit in ("no", "0", "10001", "9" * 5000):
        assert client.get(f"/admin/v1/audit?limit={limit}").status_code == 400
