"""`POST /feedback/{model}` over HTTP: what it takes, what it answers, what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.feedback.endpoint import LIMIT_BYTES
from mlserve_cli.runtime.feedback.memory import Memory
from mlserve_cli.runtime.feedback.pairs_file import PairsFile
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.tensors import TensorSpec


@pytest.fixture
def memory(server: Any, load: Any, tmp_path: Path) -> Memory:
    """What a server with one model remembers: two requests, the second of two rows."""
    manifest = load(name="iris", labels=("setosa", "versicolor", "virginica")).manifest
    server.memory = Memory(1000, server.traffic.arm)
    server.pairs = PairsFile(tmp_path / "state", 1 << 20)
    for name, best in (("a", [2]), ("b", [0, 1])):
        asked: Any = SimpleNamespace(request_id=name, alias="", named=False)
        server.memory.remember(asked, manifest, {"y": np.eye(3, dtype=np.float32)[best]}, len(best))
    found: Memory = server.memory
    return found


def written(server: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.pairs.path.read_text().splitlines()]


def test_one_truth_is_joined_and_written_down(client: Any, server: Any, memory: Memory) -> None:
    reply = client.post("/feedback/iris", json={"id": "a", "truth": "virginica"})

    assert reply.json() == {
        "model": "iris",
        "received": 1,
        "joined": 1,
        "corrected": 0,
        "duplicate": 0,
        "unknown": 0,
        "reasons": {},
        "kept": True,
    }
    [line] = written(server)
    assert line.pop("time").endswith("Z")
    assert line == {
        "model": "iris",
        "version": "1",
        "arm": "default",
        "id": "a",
        "row": 0,
        "prediction": "virginica",
        "truth": "virginica",
    }


@pytest.mark.parametrize("form", ["list", "lines", "packed"])
def test_many_truths_come_as_a_list_or_one_a_line(
    client: Any, server: Any, memory: Memory, form: str
) -> None:
    items = [
        {"id": "a", "truth": 2},
        {"id": "b", "row": 1, "truth": "setosa"},
        {"id": "a", "truth": 2},
        {"id": "a", "truth": 1},
        {"id": "zz", "truth": 1},
        {"id": "b", "row": 2, "truth": 1},
    ]
    lines = "".join(json.dumps(item) + "\n" for item in items).encode()
    body = {"list": json.dumps(items).encode(), "lines": lines, "packed": gzip.compress(lines)}
    headers = {"content-encoding": "gzip"} if form == "packed" else {}
    found = client.post("/feedback/iris", content=body[form], headers=headers).json()

    assert (found["joined"], found["corrected"], found["duplicate"]) == (2, 1, 1)
    assert (found["unknown"], found["reasons"]) == (2, {"unseen": 1, "row": 1})
    assert found["first_unknown"] == {"item": 4, "id": "zz", "row": 0, "reason": "unseen"}
    assert [line["truth"] for line in written(server)] == [2, "setosa", 1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "holds no truth"),
        (b'{"id": "a"}', "missing required field `truth`"),
        (b'[{"id": "a", "truth": 1, "rows": 0}]', "unknown field `rows` - at `$[0]`"),
        (b'{"id": "a", "truth": 1}\n{"id": "a", "truth": null}', "at `$[1].truth`"),
        (b'{"id": "a", "truth": NaN}', "JSON is malformed"),
        (b'{"id": "a", "row": -1, "truth": 1}', "`int` >= 0"),
        (b'{"id": "' + b"x" * 129 + b'", "truth": 1}', "length <= 128"),
        (b"[" * 100_000, "Expected `object`, got `array`"),
        (b'{"id": "\xff", "truth": 1}', "utf-8"),
    ],
)
def test_a_malformed_body_changes_nothing_and_is_told_where(
    client: Any, memory: Memory, body: bytes, said: str
) -> None:
    reply = client.post("/feedback/iris", content=body)

    assert reply.status_code == 400
    assert said in reply.json()["error"]
    assert '"id"' in reply.json()["hint"]
    assert memory.tallies.results == {}


def test_a_body_over_the_limit_is_refused_with_what_to_do(client: Any, memory: Memory) -> None:
    reply = client.post("/feedback/iris", content=b" " * ((1 << 20) + 1))  # max_body_mb is 1 here

    assert reply.status_code == 413
    assert reply.json()["hint"] == "send the truths in several requests"
    assert Settings().max_body_mb * (1 << 20) > LIMIT_BYTES


def test_a_model_that_is_unknown_is_told_as_everywhere(client: Any, memory: Memory) -> None:
    reply = client.post("/feedback/roses", json={"id": "a", "truth": 1})

    assert reply.status_code == 404
    assert reply.json()["error"] == "Request for unknown model: 'roses' is not found"


def test_truth_about_a_model_that_was_unloaded_is_joined(
    client: Any, server: Any, memory: Memory
) -> None:
    server.registry.remove("iris", "1")

    assert client.post("/feedback/iris", json={"id": "a", "truth": 2}).json()["joined"] == 1


def test_a_server_that_remembers_nothing_says_how_it_would(client: Any, load: Any) -> None:
    load(name="iris")
    reply = client.post("/feedback/iris", json={"id": "a", "truth": 1})

    assert reply.status_code == 409
    assert "--feedback-rows" in reply.json()["hint"]


def test_a_model_whose_outputs_decide_nothing_says_what_to_declare(
    client: Any, server: Any, load: Any
) -> None:
    load(name="pixels", outputs=(TensorSpec("y", "FP32", ("batch", 8, 8)),))
    server.memory = Memory(10, server.traffic.arm)
    reply = client.post("/feedback/pixels", json={"id": "a", "truth": 1})

    assert reply.status_code == 409
    assert "'y'" in reply.json()["error"]
    assert "PROCESSING" in reply.json()["hint"]


def test_a_disk_that_takes_nothing_fails_no_truth(client: Any, server: Any, memory: Memory) -> None:
    server.pairs.path.parent.write_text("a file where the folder should be")
    found = client.post("/feedback/iris", json={"id": "a", "truth": 2}).json()

    assert (found["joined"], found["kept"]) == (1, False)


def test_the_openapi_document_tells_of_it(client: Any, memory: Memory) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/feedback/iris"]["post"]

    assert set(operation["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}
    assert "409" in operation["responses"]
