"""Promises 13, 14, 16 and 20: how requests share the engine, and what becomes of those who fail.

A real server process, whose engine waits when the test says so and writes down what it ran.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GATE, POISON = -7.0, -13.0

ENGINE = f"""
import json, os, time
from pathlib import Path
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine

FOLDER = Path(os.environ["GATE_FOLDER"])

class GatedEngine(OnnxRuntimeEngine):
    def run(self, tensors):
        first = tensors["x"][:, 0].tolist()
        with (FOLDER / "batches").open("a") as file:
            print(json.dumps(first), file=file)
        while {GATE} in first and not (FOLDER / "open").exists():
            time.sleep(0.002)
        if {POISON} in first:
            raise ValueError("row is poison")
        return super().run(tensors)
"""

RUN = """
import sys
from pathlib import Path
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

sizing = {name: Sizing(max_batch=8) for name in ("iris", "other")}
settings = Settings(
    port=0, models=sys.argv[1], state="", sizing=sizing, shutdown_grace_s=0, max_queue_rows=5
)
server = Server(settings, Path("/"))
serve(build_app(server), server, announce=lambda url: print(url, flush=True))
"""


class Gated:
    """The server, its gate, and what its engine ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors = (folder / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / "models")],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={"PYTHONPATH": str(folder), "GATE_FOLDER": str(folder), "PATH": os.defpath},
        )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, (folder / "log.txt").read_text()
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        (folder / "batches").write_text("")  # those of the warm-up

    def batches(self) -> list[list[float]]:
        return [json.loads(line) for line in (self.folder / "batches").read_text().splitlines()]

    def open(self) -> None:
        (self.folder / "open").touch()

    def fetch(self, path: str, body: bytes | None = None, **headers: str) -> Any:
        """The answer; its body is in `text`."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request("POST" if body else "GET", path, body, headers)
            answer: Any = connection.getresponse()
            answer.text = answer.read().decode()
        finally:
            connection.close()
        return answer

    def metric(self, name: str) -> float:
        """The sum over a metric's samples for the model that has the gate."""
        found = re.findall(
            rf'^{name}{{.*model="iris".*}} (\S+)$', self.fetch("/metrics").text, re.MULTILINE
        )
        return sum(map(float, found))

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask until it is so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it never came to be"
            time.sleep(0.005)

    def close(self) -> None:
        self.open()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


def body(first: float) -> bytes:
    item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [first, 3.5, 1.4, 0.2]}
    return json.dumps({"inputs": [item]}).encode()


class Sent(threading.Thread):
    """A request on its way, and what came of it."""

    def __init__(self, server: Gated, first: float, model: str = "iris", **headers: str) -> None:
        super().__init__(daemon=True)
        self.server, self.first, self.model, self.headers = server, first, model, headers
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the test failed before
            path = f"/v2/models/{self.model}/infer"
            self.answer = self.server.fetch(path, body(self.first), **self.headers)

    def result(self) -> Any:
        self.join(60)
        return self.answer


@pytest.fixture
def server(
    iris_package: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gated]:
    monkeypatch.setenv("GATE_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gate_of_promises", raising=False)
    (tmp_path / "gate_of_promises.py").write_text(textwrap.dedent(ENGINE))
    engine = "gate_of_promises:GatedEngine"
    iris_package(tmp_path / "models" / "iris", engine=engine)
    iris_package(tmp_path / "models" / "other", name="other", engine=engine)
    made = Gated(tmp_path)
    yield made
    made.close()


def shut_in(server: Gated) -> Sent:
    """A request that is in the engine of "iris", which is busy until the gate opens."""
    sent = Sent(server, GATE)
    server.until(lambda: server.batches() == [[GATE]])
    return sent


def queued(server: Gated, count: int) -> None:
    server.until(lambda: server.metric("mlserve_queue_rows") == count)


def test_promise_13_a_lone_request_never_waits(server: Gated) -> None:
    waits = []
    for _ in range(10):
        answer = server.fetch("/v2/models/iris/infer", body(5.1))
        assert answer.status == 200
        waits.append(float(re.findall(r"queue;dur=([\d.]+)", answer.headers["server-timing"])[0]))

    # A batch window would be seen in every one of them; a busy machine only in some.
    assert min(waits) < 1, waits
    assert server.batches() == [[pytest.approx(5.1)]] * 10


def test_promise_13_a_lone_request_does_not_wait_for_a_busy_model_either(server: Gated) -> None:
    busy = shut_in(server)

    answer = server.fetch("/v2/models/other/infer", body(5.1))

    assert answer.status == 200
    assert busy.is_alive()
    server.open()
    assert busy.result().status == 200


def test_promise_14_one_bad_request_fails_alone(server: Gated) -> None:
    alone = server.fetch("/v2/models/other/infer", body(1.0))
    (server.folder / "batches").write_text("")
    first = shut_in(server)
    sent = {value: Sent(server, value) for value in (1.0, 2.0, POISON, 4.0)}
    queued(server, 4)

    server.open()

    assert first.result().status == 200
    assert sent.pop(POISON).result().status == 500
    assert {each.result().status for each in sent.values()} == {200}
    scores = [json.loads(each.text)["outputs"][0]["data"] for each in (alone, sent[1.0].result())]
    assert scores[0] == pytest.approx(scores[1])
    assert sorted(server.batches()[1]) == [POISON, 1.0, 2.0, 4.0], "they did not share a batch"


def test_promise_16_overload_is_bounded_and_seen(server: Gated) -> None:
    first = shut_in(server)
    waiting = [Sent(server, 1.0) for _ in range(5)]
    queued(server, 5)

    refused = server.fetch("/v2/models/iris/infer", body(1.0))

    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "5 rows wait, and max_queue_rows is 5" in refused.text
    assert server.metric("mlserve_rejections_total") == 1
    server.open()
    assert {each.result().status for each in (first, *waiting)} == {200}


def test_promise_16_who_is_late_is_told_and_never_computed(server: Gated) -> None:
    first = shut_in(server)

    late = server.fetch("/v2/models/iris/infer", body(9.0), **{"X-Request-Timeout-Ms": "50"})

    assert late.status == 503, late.text  # as this protocol says it
    assert "Request timeout expired" in late.text
    server.open()
    assert first.result().status == 200
    assert server.fetch("/v2/models/iris/infer", body(1.0)).status == 200
    assert [9.0] not in server.batches()
    assert 'reason="deadline"' in server.fetch("/metrics").text


def test_promise_20_a_client_that_leaves_leaves_nothing_behind(server: Gated) -> None:
    first = shut_in(server)
    stays = Sent(server, 1.0)
    text = body(9.0)
    with socket.create_connection(server.address) as leaving:
        leaving.sendall(
            b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        queued(server, 2)

    queued(server, 1)
    server.open()

    assert first.result().status == 200
    assert stays.result().status == 200
    assert server.batches() == [[GATE], [1.0]]
    queued(server, 0)
