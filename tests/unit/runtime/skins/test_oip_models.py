from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlserve_cli.runtime.errors import InvalidRequest, NotFound
from mlserve_cli.runtime.index import ModelStatus
from mlserve_cli.runtime.protocols.not_offered import NOT_OFFERED
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import TensorSpec


class Operations:
    """Remembers what it was asked to do, and by whom."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, str]] = []
        self.error: Exception | None = None

    async def load(self, name: str, *, caller: Any) -> bool:
        return self._do("load", name, caller)

    async def unload(self, name: str, *, caller: Any) -> bool:
        return self._do("unload", name, caller)

    def _do(self, action: str, name: str, caller: Any) -> bool:
        if self.error is not None:
            raise self.error
        self.done.append((action, name, caller.name))
        return True


@pytest.fixture
def operations(server: Any) -> Operations:
    server.operations = Operations()
    server.lifecycle = SimpleNamespace(
        index=lambda: [
            ModelStatus("dbl", "1", "READY"),
            ModelStatus("dbl", "2", "UNAVAILABLE", "not loaded"),
        ]
    )
    made: Operations = server.operations
    return made


def sized(model: Any, **sizing: Any) -> Any:
    model.sizing = Sizing(**sizing)
    model.batcher = SimpleNamespace(max_batch=16, workers=2)
    return model


def test_the_configuration_says_how_a_model_runs(client: Any, load: Any) -> None:
    sized(load(), max_delay_ms=1.5)
    found = client.get("/v2/models/dbl/config").json()
    assert found["name"] == "dbl"
    assert found["platform"] == "onnxruntime_onnx"
    assert found["max_batch_size"] == 16
    assert found["input"][0]["name"] == "x"
    assert found["input"][0]["data_type"] == "TYPE_FP32"
    assert found["input"][0]["dims"] == [3]  # without the batch
    assert found["instance_group"] == [{"name": "dbl", "kind": "KIND_CPU", "count": 2, "gpus": []}]
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 1500
    assert client.get("/v2/models/dbl/versions/1/config").json() == found


def test_a_model_of_a_fixed_batch_has_its_whole_shape_in_the_configuration(
    client: Any, load: Any
) -> None:
    fixed = (TensorSpec("x", "BYTES", (4, "length")),)
    sized(load(inputs=fixed), device="cuda")
    found = client.get("/v2/models/dbl/config").json()
    assert found["max_batch_size"] == 0
    assert found["input"][0]["dims"] == [4, -1]
    assert found["input"][0]["data_type"] == "TYPE_STRING"
    assert found["instance_group"][0]["kind"] == "KIND_GPU"
    assert "dynamic_batching" not in found


def test_statistics_count_what_was_answered(client: Any, load: Any) -> None:
    metrics = load().metrics
    metrics.waited(0.5)
    metrics.waited(0.25)
    metrics.ran(2, 0.125)
    metrics.ran(1, 0.25)
    metrics.answered("oip-rest", 200, 1.0)
    metrics.answered("oip-rest", 500, 2.0)
    (found,) = client.get("/v2/models/dbl/stats").json()["model_stats"]
    assert (found["inference_count"], found["execution_count"]) == (3, 2)
    assert found["last_inference"] > 1_700_000_000_000
    stages = found["inference_stats"]
    assert stages["success"] == {"count": 1, "ns": 1_000_000_000}
    assert stages["fail"] == {"count": 1, "ns": 2_000_000_000}
    assert stages["queue"]["ns"] == 750_000_000
    assert stages["compute_infer"] == {"count": 2, "ns": 375_000_000}
    assert [(each["batch_size"], each["compute_infer"]) for each in found["batch_stats"]] == [
        (1, {"count": 1, "ns": 250_000_000}),
        (2, {"count": 1, "ns": 125_000_000}),
    ]


def test_statistics_are_of_one_version_of_all_or_of_every_model(client: Any, load: Any) -> None:
    for name, version in (("dbl", "1"), ("dbl", "2"), ("other", "1")):
        load(name=name, version=version)

    def named(path: str) -> list[tuple[str, str]]:
        found = client.get(path).json()["model_stats"]
        return [(each["name"], each["version"]) for each in found]

    assert named("/v2/models/dbl/versions/1/stats") == [("dbl", "1")]
    assert named("/v2/models/dbl/stats") == [("dbl", "1"), ("dbl", "2")]
    assert named("/v2/models/stats") == [("dbl", "1"), ("dbl", "2"), ("other", "1")]


@pytest.mark.parametrize("view", ["config", "stats"])
@pytest.mark.parametrize(
    ("path", "text"),
    [("nope", "'nope' is not found"), ("dbl/versions/9", "'dbl' version 9 is not found")],
)
def test_what_is_unknown_is_a_404(client: Any, load: Any, path: str, view: str, text: str) -> None:
    load()
    reply = client.get(f"/v2/models/{path}/{view}")
    assert reply.status_code == 404
    assert reply.json()["error"] == f"Request for unknown model: {text}"


def test_the_index_names_every_version_and_its_state(client: Any, operations: Any) -> None:
    every = client.post("/v2/repository/index").json()
    assert every == [
        {"name": "dbl", "version": "1", "state": "READY"},
        {"name": "dbl", "version": "2", "state": "UNAVAILABLE", "reason": "not loaded"},
    ]
    assert client.post("/v2/repository/index", json={"ready": False}).json() == every
    assert client.post("/v2/repository/index", json={"ready": True}).json() == every[:1]


def test_an_index_that_cannot_be_read_is_a_400(client: Any, operations: Any) -> None:
    for body in (b"[" * 250_000, b"{", b"[]", b'{"ready": "yes"}'):
        reply = client.post("/v2/repository/index", content=body)
        assert reply.status_code == 400
        assert "failed to parse" in reply.json()["error"]
    assert client.get("/v2/repository/index").status_code == 405


def test_a_model_is_loaded_and_unloaded_with_an_empty_answer(client: Any, operations: Any) -> None:
    for action in ("load", "unload"):
        for body in (
            b"",
            b"{}",
            b'{"parameters":{}}',
            b'{"parameters":{"unload_dependents":false}}',
        ):
            reply = client.post(f"/v2/repository/models/dbl/{action}", content=body)
            assert (reply.status_code, reply.content) == (200, b""), reply.text
    assert {(action, name) for action, name, _ in operations.done} == {
        ("load", "dbl"),
        ("unload", "dbl"),
    }


def test_loading_what_is_not_there_fails_with_tritons_text(client: Any, operations: Any) -> None:
    operations.error = NotFound("…", hint="no package in 'models' has that name")
    reply = client.post("/v2/repository/models/nope/load")
    assert reply.status_code == 500
    assert reply.json() == {
        "error": "failed to load 'nope', failed to poll from model repository",
        "hint": "no package in 'models' has that name",
    }


def test_a_model_that_cannot_be_loaded_says_why(client: Any, operations: Any) -> None:
    operations.error = InvalidRequest("load failed for model 'dbl': it is damaged")
    reply = client.post("/v2/repository/models/dbl/load")
    assert reply.status_code == 400
    assert reply.json()["error"] == "load failed for model 'dbl': it is damaged"


def test_unloading_what_is_not_loaded_is_what_was_wanted(client: Any, operations: Any) -> None:
    operations.error = NotFound("not loaded")
    assert client.post("/v2/repository/models/nope/unload").status_code == 200


@pytest.mark.parametrize(
    ("action", "parameters", "text"),
    [
        ("load", {"config": "{}"}, "cannot be loaded with 'config'"),
        ("load", {"file:1/model.onnx": "AAAA"}, "cannot be loaded with 'file:1/model.onnx'"),
        ("unload", {"unload_dependents": True}, "cannot be unloaded with it"),
    ],
)
def test_what_the_repository_does_not_do_is_a_501(
    client: Any, operations: Any, action: str, parameters: Any, text: str
) -> None:
    url = f"/v2/repository/models/dbl/{action}"
    reply = client.post(url, json={"parameters": parameters})
    assert reply.status_code == 501
    assert text in reply.json()["error"]
    assert reply.json()["hint"]
    assert operations.done == []


def test_a_repository_has_no_name(client: Any, operations: Any) -> None:
    for path in ("index", "models/dbl/load", "models/dbl/unload"):
        reply = client.post(f"/v2/repository/mine/{path}")
        assert reply.status_code == 501
        assert "'mine' names a repository" in reply.json()["error"]
    assert operations.done == []


@pytest.mark.parametrize("path", [path for paths, _, _ in NOT_OFFERED for path in paths])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_offered_is_a_501_with_a_sentence(
    client: Any, load: Any, path: str, method: str
) -> None:
    load()
    filled = path.replace("{model}", "dbl").replace("{version}", "1").replace("{name}", "r")
    reply = client.request(method, filled)
    assert reply.status_code == 501
    assert set(reply.json()) == {"error", "hint"}
