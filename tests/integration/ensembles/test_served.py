"""An ensemble in a server folder, run without the toolchain and asked by many clients at once."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlserve_cli.emit.folder import emit
from mlserve_cli.export.export import export
from mlserve_cli.package.progress import Silent
from mlserve_cli.runtime import sizing
from mlserve_cli.runtime.sizing import Sizing

CLIENTS = 16
POISON, REFUSED = -13.0, -14.0

ENSEMBLE = """
name = "flowers"
outputs = ["scores", "margin"]
[[steps]]
name = "look"
function = "steps.py:look"
inputs = { x = "measures" }
outputs = { x = "seen" }
[[steps]]
package = "iris"
inputs = { x = "seen" }
outputs = { scores = "first" }
[[steps]]
name = "again"
package = "iris"
inputs = { x = "measures" }
outputs = { scores = "second" }
[[steps]]
operation = "mean"
inputs = ["first", "second"]
output = "scores"
[[steps]]
function = "steps.py:margin"
outputs = ["margin"]
"""

STEPS = f"""
import numpy as np

def look(x):
    if (x[:, 0] == {POISON}).any():
        raise RuntimeError("a row is poison")
    if (x[:, 0] == {REFUSED}).any():
        raise ValueError("such a row is not taken")
    return {{"x": x}}

def margin(scores):
    best = np.sort(scores, axis=1)
    return {{"margin": best[:, -1:] - best[:, -2:-1]}}
"""

BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mlserve_cli", "torch", "onnx", "typer", "rich", "sklearn"}:
            raise ImportError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/server.py", run_name="__main__")
"""


@pytest.fixture
def package(iris_package, tmp_path):
    """The ensemble's package; its member is tried with real flowers."""
    iris_package(tmp_path / "iris")
    (tmp_path / "steps.py").write_text(STEPS)
    (tmp_path / "ensemble.toml").write_text(ENSEMBLE)
    return export(str(tmp_path / "ensemble.toml"), tmp_path / "package")


class Server:
    """The process; a batch starts when all clients are there, so nothing is left to luck."""

    def __init__(self, folder):
        self.log = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", BLOCKED, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"MLSERVE_PORT": "0", "MLSERVE_SHUTDOWN_GRACE_S": "0"},
        )
        found = None
        while found is None:
            line = self.process.stdout.readline()
            assert line, "".join(self.log)
            self.log.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        self.port = int(found.group(1))
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stdout))
        self.reader.start()

    def fetch(self, path, document=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = None if document is None else json.dumps(document)
            connection.request("GET" if body is None else "POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def infer(self, row):
        item = {"name": "measures", "shape": [1, 4], "datatype": "FP32", "data": list(row)}
        status, text = self.fetch("/v2/models/flowers/infer", {"inputs": [item]})
        return status, json.loads(text)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        self.reader.join(timeout=10)
        self.process.stdout.close()
        return status


@pytest.fixture
def server(package, tmp_path, monkeypatch):
    chosen = Sizing(threads=1, max_batch=CLIENTS, max_delay_ms=10_000)
    monkeypatch.setattr(sizing, "measure", lambda *_: chosen)
    folder = emit([package.path], tmp_path / "server", progress=Silent()).path
    running = Server(folder)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.stop()


def together(server, rows):
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(server.infer, rows))


def test_sixteen_clients_get_their_own_rows_and_a_poisoned_one_spoils_none(server, package, iris):
    rows = [row.tolist() for row in iris[0][::9][:CLIENTS]]
    engine = package.engine()
    expected = engine.run({"measures": np.array(rows, np.float32)})
    engine.close()

    def check(number, found):
        status, document = found
        assert status == 200, document
        answer = {each["name"]: each["data"] for each in document["outputs"]}
        for name in ("scores", "margin"):
            assert answer[name] == pytest.approx(expected[name][number].tolist(), abs=1e-6)

    for number, found in enumerate(together(server, rows)):
        check(number, found)

    rows[5] = [POISON, 1.0, 1.0, 1.0]
    rows[11] = [REFUSED, 1.0, 1.0, 1.0]
    answers = together(server, rows)
    for number, found in enumerate(answers):
        if number not in (5, 11):
            check(number, found)
    assert answers[5][0] == 500
    assert "step 'look' (steps.py:look) failed: a row is poison" in answers[5][1]["error"]
    assert answers[11][0] == 400
    assert "such a row is not taken" in answers[11][1]["error"]

    _, metrics = server.fetch("/metrics")
    halves = re.search(r'mlserve_batches_total\{closed="half".*\} (\S+)', metrics)
    assert float(halves.group(1)) > 0
    steps = re.findall(
        r'mlserve_step_seconds_count\{model="flowers",step="(\w+)".*\} (\S+)', metrics
    )
    ran = {name: float(count) for name, count in steps}
    assert list(ran) == ["look", "iris", "again", "mean", "margin"]
    assert min(ran.values()) >= 2, "the batch of all, and the halves that went well"

    _, text = server.fetch("/v2/models/flowers/stats")
    (stats,) = json.loads(text)["model_stats"]
    assert [each["step"] for each in stats["step_stats"]] == list(ran)
    assert all(each["compute_infer"]["ns"] > 0 for each in stats["step_stats"])
    assert json.loads(server.fetch("/v2/models/flowers")[1])["platform"] == "ensemble"
    assert server.stop() == 0
