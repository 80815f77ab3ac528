"""The gate in front of all routes: what browsers, proxies and mounted applications may do."""

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mlserve_cli.runtime import keys
from mlserve_cli.runtime.gate import KEY, Gate
from mlserve_cli.runtime.monitoring.metrics import Metrics
from mlserve_cli.runtime.security import Guard
from mlserve_cli.runtime.settings import Settings

ADMIN = "/admin/v1/status"
INFER = "/v2/models/m/infer"


async def who(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.scope.get(KEY)))


PATHS = [ADMIN, INFER, "/models/m", "/predictions/m", "/readyz", "/own"]


def routes() -> list[Route]:
    return [Route(path, who, methods=["GET", "POST", "DELETE"]) for path in PATHS]


def fake(settings: Settings, root: Path) -> Any:
    guard = Guard(settings, root)
    guard.load()
    return SimpleNamespace(guard=guard, metrics=Metrics())


def client(server: Any, url: str = "http://127.0.0.1:8000") -> TestClient:
    app = Starlette(routes=routes(), middleware=[Middleware(Gate, server)])
    return TestClient(app, url)


@pytest.fixture
def open_server(tmp_path: Path) -> Any:
    return fake(Settings(), tmp_path)


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Any, str]:
    """A server with a key for both scopes, and the key."""
    made, text = keys.make("ops", ["admin"])
    keys.write(tmp_path / "keys.json", [made])
    return fake(Settings(keys="keys.json"), tmp_path), text


@pytest.mark.parametrize(
    ("url", "headers", "why"),
    [
        ("http://127.0.0.1:8000", {"host": "evil.example"}, "is for the host 'evil.example'"),
        ("http://10.0.0.7:8000", {}, "the server listens to others"),
        ("http://127.0.0.1:8000", {"origin": "http://evil.example"}, "a page of another site"),
        ("http://127.0.0.1:8000", {"origin": "null"}, "a page of another site"),
        ("http://127.0.0.1:8000", {"sec-fetch-site": "same-site"}, "a page of another site"),
        ("http://127.0.0.1:8000", {"x-forwarded-for": "10.0.0.7"}, "a proxy has passed"),
    ],
)
def test_without_keys_what_may_come_from_elsewhere_does_not_administer(
    open_server: Any, url: str, headers: dict[str, str], why: str
) -> None:
    reply = client(open_server, url).post(ADMIN, headers=headers)
    assert reply.status_code == 403
    assert why in reply.json()["error"]
    assert client(open_server, url).post(INFER, headers=headers).status_code == 200


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:80"])
def test_without_keys_this_machine_administers(open_server: Any, url: str) -> None:
    found = client(open_server, url)
    assert found.post(ADMIN).status_code == 200
    own_page = {"origin": str(found.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert found.post(ADMIN, headers=own_page | {"host": own_page["origin"][7:]}).status_code == 200


def test_a_browser_may_send_the_key_as_a_password_to_its_own_site_alone(
    guarded: tuple[Any, str],
) -> None:
    server, text = guarded
    found = client(server)
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}
    assert found.get("/own", headers=basic).text == "ops"
    assert found.post(ADMIN, headers=basic | {"origin": "http://evil.example"}).status_code == 401


def test_a_refusal_says_how_to_send_a_key_and_is_counted(guarded: tuple[Any, str]) -> None:
    server, _ = guarded
    reply = client(server).post(INFER)
    assert reply.status_code == 401
    assert "Bearer" in reply.headers["www-authenticate"]
    assert "X-API-Key" in reply.json()["hint"]
    assert b'mlserve_rejections_total{model="",reason="unauthorized",version=""} 1.0' in (
        server.metrics.render()
    )


@pytest.mark.parametrize("path", ["/models/m", "/predictions/m"])
def test_torchserve_clients_are_refused_as_torchserve_words_it(
    guarded: tuple[Any, str], path: str
) -> None:
    document = client(guarded[0]).post(path).json()
    assert document["code"] == 401
    assert "API key" in document["message"]


def test_a_route_of_the_users_own_is_behind_the_gate(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    found = client(server)
    assert found.get("/own").status_code == 401
    assert found.get("/own", headers={"x-api-key": text}).text == "ops"
    assert found.get("/readyz").status_code == 200


def test_the_scope_holds_where_the_routes_are_mounted(open_server: Any) -> None:
    gate = [Middleware(Gate, open_server)]
    outer = Starlette(routes=[Mount("/ml", routes=routes())], middleware=gate)
    inner = Starlette(routes=[Mount("/ml", app=Starlette(routes=routes(), middleware=gate))])
    for app in (outer, inner):
        assert TestClient(app, "http://evil.example").post("/ml" + ADMIN).status_code == 403
        assert TestClient(app, "http://evil.example").post("/ml" + INFER).status_code == 200
    assert TestClient(inner, "http://evil.example").delete("/ml/models/m").status_code == 403


def test_a_websocket_needs_a_key_too(guarded: tuple[Any, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as info,
        client(guarded[0]).websocket_connect("ws://127.0.0.1:8000/own"),
    ):
        pass
    assert info.value.code == 1008
