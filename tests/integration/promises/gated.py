"""A real server process whose engine waits when the test says so, and writes down what it ran."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
import json, sys
from pathlib import Path
from mlserve_cli.runtime import announcement, compat
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

sizing = {name: Sizing(max_batch=8) for name in ("iris", "other")}
given = dict(port=0, models=sys.argv[1], state="", sizing=sizing, shutdown_grace_s=0)
given |= dict(max_queue_rows=5) | json.loads(sys.argv[2])
if "compat" in given:  # the usual ports may be taken on a machine that runs tests
    compat.PORTS["torchserve"] = compat.Ports(http=tuple(given.pop("usual")))
server = Server(Settings(**given), Path("/"))

def announce(url):
    print(url, *announcement.grpc_addresses(server, url), flush=True)

serve(build_app(server), server, announce=announce)
"""


class Gated:
    """The server, its gate, and what its engine ran."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.errors = (folder / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / "models"), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={"PYTHONPATH": str(folder), "GATE_FOLDER": str(folder), "PATH": os.defpath},
        )
        assert self.process.stdout is not None
        url, *self.grpc = self.process.stdout.readline().split() or [""]
        assert url, (folder / "log.txt").read_text()
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        (folder / "batches").write_text("")  # those of the warm-up

    def batches(self) -> list[list[float]]:
        return [json.loads(line) for line in (self.folder / "batches").read_text().splitlines()]

    def open(self) -> None:
        (self.folder / "open").touch()

    def fetch(
        self, path: str, body: bytes | None = None, *, port: int | None = None, **headers: str
    ) -> Any:
        """The answer; its body is in `text`."""
        host, own = self.address
        connection = http.client.HTTPConnection(host, port or own, timeout=60)
        try:
            connection.request("POST" if body else "GET", path, body, headers)
            answer: Any = connection.getresponse()
            answer.text = answer.read().decode()
        finally:
            connection.close()
        return answer

    def metric(self, name: str, **labels: str) -> float:
        """The sum over a metric's samples for the model that has the gate, or for those labels."""
        wanted = [f'{key}="{value}"' for key, value in ({"model": "iris"} | labels).items()]
        found = re.findall(rf"^{name}{{(.*)}} (\S+)$", self.fetch("/metrics").text, re.MULTILINE)
        return sum(float(value) for given, value in found if set(wanted) <= set(given.split(",")))

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask until it is so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it never came to be"
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

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


def shut_in(server: Gated) -> Sent:
    """A request that is in the engine of "iris", which is busy until the gate opens."""
    sent = Sent(server, GATE)
    server.until(lambda: server.batches() == [[GATE]])
    return sent


def queued(server: Gated, count: int) -> None:
    server.until(lambda: server.metric("mlserve_queue_rows") == count)


def grpc_request(first: float, model: str = "iris") -> bytes:
    """The same as `body`, for `ModelInfer`."""
    service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
    sent = service_pb2.ModelInferRequest(model_name=model)
    sent.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    sent.raw_input_contents.append(np.float32([first, 3.5, 1.4, 0.2]).tobytes())
    text: bytes = sent.SerializeToString()
    return text


SERVICE = "/inference.GRPCInferenceService"
