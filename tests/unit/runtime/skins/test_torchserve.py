"""TorchServe's inference API: bodies of every kind, bare answers, its own errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    Overloaded,
    RequestError,
    Stopping,
)
from mlserve_cli.runtime.processing.declaration import (
    Column,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import TensorSpec
from mlserve_cli.runtime.traffic import TrafficRule

TABLE = Processing(
    input=TableInput(tensor="x", columns=(Column("a"), Column("b"), Column("c", default=7.0))),
)


@pytest.fixture
def echo(load: Any) -> Any:
    return load(name="echo", processing=TABLE)


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["echo", "echo/1"])
def test_one_row_is_answered_by_itself(client: Any, echo: Any, method: str, path: str) -> None:
    reply = client.request(method, f"/predictions/{path}", json={"a": 1, "b": 2})
    assert (reply.status_code, reply.json()) == (200, {"y": [2.0, 4.0, 14.0]})
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("rows", "is_list"),
    [
        ([{"a": 1, "b": 2}], True),
        ([[1, 2, 7]], True),
        ({"instances": [{"a": 1, "b": 2}]}, True),
        ([1, 2, 7], False),
        ({"b": 2, "a": 1}, False),
    ],
)
def test_rows_in_a_list_are_answered_in_a_list(
    client: Any, echo: Any, rows: Any, is_list: bool
) -> None:
    answer = client.post("/predictions/echo", json=rows).json()
    assert answer == ([{"y": [2.0, 4.0, 14.0]}] if is_list else {"y": [2.0, 4.0, 14.0]})


@pytest.mark.parametrize(
    "form",
    [
        {"files": {"data": ("row.json", b'{"a": 1, "b": 2}')}},
        {"files": {"data": ("rows.csv", b"a,b\n1,2\n")}},
        {"files": {"body": (None, '{"a": 1, "b": 2}')}},
        {"files": {"a": (None, "1"), "b": (None, "2")}},
    ],
)
def test_a_form_holds_the_payload(client: Any, echo: Any, form: Any) -> None:
    reply = client.post("/predictions/echo", **form)
    assert (reply.status_code, reply.json()) == (200, {"y": [2.0, 4.0, 14.0]})


def test_raw_text_is_a_payload(client: Any, load: Any, server: Any) -> None:
    load(
        name="words",
        inputs=(TensorSpec("x", "BYTES", ("batch",)),),
        processing=Processing(input=TextInput(tensor="x"), output=ValuesOutput(tensor="y")),
        rows={"x": np.array([b"a"], dtype=object)},
    )
    server.dataplane.function = lambda given: {"y": np.array([len(x) for x in given["x"]])}
    reply = client.post("/predictions/words", content="hello")
    assert (reply.status_code, reply.json()) == (200, {"value": 5})


@pytest.mark.parametrize("path", ["/invocations", "/predictions"])
def test_the_only_model_needs_no_name(client: Any, echo: Any, load: Any, path: str) -> None:
    assert client.post(path, json={"a": 1, "b": 2}).json() == {"y": [2.0, 4.0, 14.0]}
    load(name="other")
    reply = client.post(path, json={"a": 1, "b": 2})
    assert reply.status_code == 400
    assert reply.json()["type"] == "BadRequestException"
    assert "echo, other" in reply.json()["message"]


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("nope", "ModelNotFoundException", "Model not found: nope"),
        ("nope/1", "ModelNotFoundException", "Model not found: nope"),
        (
            "echo/9.9",
            "ModelVersionNotFoundException",
            "Model version: 9.9 does not exist for model: echo",
        ),
    ],
)
def test_what_is_not_there_is_told_as_there(
    client: Any, echo: Any, path: str, kind: str, message: str
) -> None:
    reply = client.post(f"/predictions/{path}", json={})
    assert reply.json() == {"code": 404, "type": kind, "message": message}
    assert reply.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/predictions/echo", 405, "MethodNotAllowedException"),
        ("DELETE", "/predictions/echo/1", 405, "MethodNotAllowedException"),
        ("GET", "/invocations", 405, "MethodNotAllowedException"),
        ("GET", "/explanations/echo", 405, "MethodNotAllowedException"),
        ("PATCH", "/models/echo", 405, "MethodNotAllowedException"),
        ("GET", "/models/echo/1/nothing", 404, "ResourceNotFoundException"),
        ("POST", "/predictions/echo/1/nothing", 404, "ResourceNotFoundException"),
    ],
)
def test_a_wrong_method_or_path_is_told_as_there(
    client: Any, echo: Any, method: str, path: str, status: int, kind: str
) -> None:
    reply = client.request(method, path)
    assert reply.status_code == status
    assert (reply.json()["code"], reply.json()["type"]) == (status, kind)
    assert reply.json()["message"].endswith("please refer to API document.")


def test_a_wrong_row_is_a_400_with_its_reason(client: Any, echo: Any) -> None:
    reply = client.post("/predictions/echo", json={"a": "x", "b": 2})
    assert reply.status_code == 400
    assert reply.json()["type"] == "BadRequestException"
    assert "column 'a' is 'x'" in reply.json()["message"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Overloaded("full", retry_after_s=3), "ServiceUnavailableException"),
        (Stopping("bye", retry_after_s=1), "ServiceUnavailableException"),
        (DeadlineExceeded("late"), "RequestTimeoutException"),
        (InferenceFailed("broken"), "InternalServerException"),
    ],
)
def test_the_servers_errors_have_their_types(
    client: Any, echo: Any, server: Any, error: RequestError, kind: str
) -> None:
    server.dataplane.error = error
    reply = client.post("/predictions/echo", json={"a": 1, "b": 2})
    assert reply.status_code == error.status
    assert reply.json() == {"code": error.status, "type": kind, "message": error.message}
    assert reply.headers.get("retry-after") == (
        str(error.retry_after_s) if error.retry_after_s else None
    )


def test_a_bug_of_ours_tells_an_id_and_nothing_else(client: Any, echo: Any, server: Any) -> None:
    server.dataplane.error = ValueError("a secret")
    reply = client.post("/predictions/echo", json={"a": 1, "b": 2})
    assert (reply.status_code, reply.json()["type"]) == (500, "InternalServerException")
    assert "secret" not in reply.text


def test_a_body_over_the_limit_is_a_413(client: Any, echo: Any) -> None:
    reply = client.post("/predictions/echo", content=b" " * (2 << 20))
    assert (reply.status_code, reply.json()["code"]) == (413, 413)


def test_explanations_are_not_offered(client: Any, echo: Any) -> None:
    assert client.post("/explanations/echo", json={}).status_code == 501
    assert client.post("/explanations/nope", json={}).status_code == 404


def test_ping_says_healthy_only_while_predictions_succeed(client: Any, server: Any) -> None:
    reply = client.get("/ping")
    assert (reply.status_code, reply.text) == (200, '{\n  "status": "Healthy"\n}\n')
    server.is_ready = False
    reply = client.get("/ping")
    assert (reply.status_code, json.loads(reply.text)) == (500, {"status": "Unhealthy"})


@pytest.mark.parametrize(("method", "path"), [("OPTIONS", "/"), ("GET", "/api-description")])
def test_the_description_is_openapi(client: Any, echo: Any, method: str, path: str) -> None:
    assert "/predict/echo" in client.request(method, path).json()["paths"]


@pytest.mark.parametrize("where", ["json", "form"])
def test_traffic_may_stick_to_a_value_of_the_row(
    client: Any, load: Any, server: Any, where: str
) -> None:
    for version in ("1", "2"):
        load(name="echo", version=version, processing=TABLE)
    rule = TrafficRule(default="1", weights={"2": 50}, sticky="field:a")
    server.traffic.set_rule("echo", rule)
    picked: dict[int, set[str]] = {}

    async def predict(model: Any, body: bytes, content_type: str, **options: Any) -> Any:
        picked.setdefault(user, set()).add(model.manifest.version)
        return [1]

    server.dataplane.predict = predict
    for user in range(20):
        for path in ("/predictions/echo", "/predict/echo"):
            if where == "json":
                reply = client.post(path, json={"a": user, "b": 2})
            else:
                reply = client.post(path, files={"a": (None, str(user)), "b": (None, "2")})
            assert reply.status_code == 200
    assert all(len(versions) == 1 for versions in picked.values())
    assert {"1", "2"} == set.union(*picked.values())
    assert client.post("/predict/echo", content=b"{").status_code == 200  # no key: any version
