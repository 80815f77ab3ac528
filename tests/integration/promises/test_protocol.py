"""Promises 15, 17 and 21: readiness that does not lie, percentiles, errors that say what is wrong.

A whole application with a real package and a real engine, which breaks when the test says so.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

ENGINE = """
from pathlib import Path
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine

class BreakableEngine(OnnxRuntimeEngine):
    def run(self, tensors):
        if (Path(__file__).parent / "broken").exists():
            raise RuntimeError("the device is lost")
        return super().run(tensors)
"""

X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
PROBES = ("/readyz", "/v2/health/ready", "/v2/models/iris/ready")


@pytest.fixture
def client(
    iris_package: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    (tmp_path / "breakable_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "breakable_engine", raising=False)
    package = iris_package(tmp_path / "iris", engine="breakable_engine:BreakableEngine")
    settings = Settings(
        models=str(package.path), state="", sizing={"iris": Sizing(threads=1)}, shutdown_grace_s=0
    )
    application = build_app(Server(settings, tmp_path))
    with TestClient(application, base_url="http://localhost") as made:
        yield made


def infer(client: TestClient, **changes: Any) -> Any:
    return client.post("/v2/models/iris/infer", json={"inputs": [X | changes]})


def test_promise_15_readiness_does_not_lie_about_an_engine_that_broke(
    client: TestClient, tmp_path: Path
) -> None:
    assert infer(client).status_code == 200
    assert {client.get(path).status_code for path in PROBES} == {200}
    broken = tmp_path / "broken"
    broken.touch()
    assert infer(client).status_code == 500
    for path in PROBES:
        assert client.get(path).status_code in (400, 503), path
    assert client.get("/livez").status_code == 200
    broken.unlink()
    assert {client.get(path).status_code for path in PROBES} == {200}
    assert infer(client).status_code == 200


def test_promise_15_a_server_is_ready_only_while_it_has_models(
    iris_package: Callable[..., Any], tmp_path: Path
) -> None:
    settings = Settings(models=str(iris_package(tmp_path / "iris").path), state="")
    server = Server(settings, tmp_path)
    application = build_app(server)
    before = TestClient(application, base_url="http://localhost")
    assert before.get("/readyz").status_code == 503
    with TestClient(application, base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
        server.set_accepting(False)
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
    assert before.get("/readyz").status_code == 503


def test_promise_17_every_stage_of_every_version_has_a_histogram(client: TestClient) -> None:
    for _ in range(3):
        assert infer(client).status_code == 200
    text = client.get("/metrics").text
    for stage in ("queue", "compute", "total"):
        labels = f'model="iris",stage="{stage}",version="1"'
        lines = [line for line in text.splitlines() if labels in line]
        buckets = [line for line in lines if line.startswith("mlserve_stage_seconds_bucket")]
        counts = [float(line.rpartition(" ")[2]) for line in buckets]
        assert len(counts) > 10, stage
        assert counts == sorted(counts)
        assert counts[-1] == 3
    (statistics,) = client.get("/v2/models/iris/stats").json()["model_stats"]
    assert statistics["inference_stats"]["success"]["count"] == 3
    assert statistics["inference_stats"]["success"]["ns"] > 0


SAID: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a datatype": ({"datatype": "INT64", "data": [1, 2, 3, 4]}, ("'x'", "INT64", "FP32")),
    "a shape": ({"shape": [2, 2]}, ("'x'", "[2,2]", "[-1,4]")),
    "a rank": ({"shape": [4]}, ("'x'", "[4]", "[-1,4]")),
    "a name": ({"name": "y"}, ("'y'", "iris", "its inputs are 'x'")),
    "too few values": ({"data": [1]}, ("data", "'x'", "[1, 4]")),
    "text": ({"data": ["a", 1, 2, 3]}, ("'x'", "numbers", "FP32")),
    "a ragged list": ({"data": [[1, 2, 3], [4]]}, ("'x'", "ragged", "same length")),
    "a large number": ({"data": [1e40, 1, 2, 3]}, ("'x'", "FP32", "3.40282")),
    "a negative size": ({"shape": [-1, 4]}, ("'x'", "[-1, 4]", "negative")),
    "an unknown datatype": ({"datatype": "FLOAT"}, ("x", "'FLOAT'", "FP32")),
}


@pytest.mark.parametrize("case", SAID)
def test_promise_21_an_error_names_the_input_the_value_and_what_is_allowed(
    client: TestClient, case: str
) -> None:
    changes, words = SAID[case]
    reply = infer(client, **changes)
    assert reply.status_code == 400
    shown = " ".join(reply.json().values())
    for word in words:
        assert word in shown, shown
    assert "Traceback" not in reply.text
    assert infer(client).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 1}', b"\xff\xfe", b"[" * 100_000])
def test_promise_21_what_is_no_request_gets_a_sentence_too(client: TestClient, body: bytes) -> None:
    reply = client.post("/v2/models/iris/infer", content=body)
    assert reply.status_code == 400
    assert json.loads(reply.content)["error"].startswith("failed to parse the request JSON buffer")
