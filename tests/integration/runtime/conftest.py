"""A real server process whose engine answers when the test says so: nothing is left to luck."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

GATE = -7.0
"""A request whose first number is this one waits in the engine until it is let through."""

SLOW = "slow to load"  # a fault; the other one is "wrong"

ENGINE = f"""
import os, time
from pathlib import Path
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine

def wait(name):
    folder = Path(os.environ["GATE_FOLDER"])
    (folder / name).touch()
    while not (folder / "through").exists():
        time.sleep(0.005)

class GatedEngine(OnnxRuntimeEngine):
    def __init__(self, model, options):
        if os.environ.get("FAULT") == "{SLOW}":
            wait("loading")
        super().__init__(model, options)

    def run(self, tensors):
        if tensors["x"][0, 0] == {GATE}:
            wait("begun")
        outputs = super().run(tensors)
        if os.environ.get("FAULT") == "wrong":
            outputs["scores"] = outputs["scores"] + 0.5
        return outputs
"""

RUN = """
import sys
from pathlib import Path
from mlserve_cli.runtime import reporting
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

reporting.install()
options = dict(port=0, models=sys.argv[1], sizing={"iris": Sizing(threads=1)}) | eval(sys.argv[2])
server = Server(Settings(**options), Path("/"))
serve(build_app(server), server, announce=lambda url: print(url, flush=True))
"""


class Process:
    """A server in a process of its own, and the gate of its engine."""

    def __init__(self, folder: Path, models: Path, *, fault: str = "", **options: Any) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(models), repr(options)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    "PYTHONPATH": str(folder),
                    "GATE_FOLDER": str(folder),
                    "FAULT": fault,
                    "PATH": os.defpath,
                },
            )
        assert self.process.stdout is not None
        # One that loads slowly says nothing until the gate is open; one that fails, nothing at all.
        self.url = "" if fault == SLOW else self.process.stdout.readline().strip()

    def send(self, first: float) -> tuple[int, Any]:
        """One inference request; its status and document."""
        data = [first, 3.5, 1.4, 0.2]
        item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}
        return self.fetch("/v2/models/iris/infer", json.dumps({"inputs": [item]}).encode())

    def fetch(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """The status and JSON document of one request on a connection of its own."""
        request = urllib.request.Request(self.url + path, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def send_through_the_gate(self) -> InFlight:
        """A request that is in the engine when this returns."""
        sent = InFlight(self)
        self.until(lambda: (self.folder / "begun").exists())
        return sent

    def open_the_gate(self) -> None:
        (self.folder / "through").touch()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(60)

    def until(self, condition: Any) -> None:
        """Ask until it is so, or the process has ended."""
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.005)

    def close(self) -> None:
        self.open_the_gate()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class InFlight(threading.Thread):
    """A request on its way, and what came of it."""

    def __init__(self, process: Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.reply: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.reply = self.process.send(GATE)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.reply = error

    def result(self) -> Any:
        self.join(60)
        return self.reply


@pytest.fixture
def gated(iris_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose engine has a gate."""
    (tmp_path / "gated_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(tmp_path)
    path: Path = iris_package(tmp_path / "iris", engine="gated_engine:GatedEngine").path
    return path


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Start a server; it is ended with the test."""
    running = []

    def run(models: Path, **options: Any) -> Process:
        running.append(Process(tmp_path, models, **options))
        return running[-1]

    yield run
    for each in running:
        each.close()
