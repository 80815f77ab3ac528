"""Packages of the engine torch, and of a user's own, behind a real server."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MLSERVE = Path(sys.executable).with_name("mlserve")

LOOKUP = """
import torch
from torch import nn
NAME = "lookup"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 2)
    def forward(self, ids):
        return self.table(ids).sum(1)
def model():
    torch.manual_seed(0)
    return Net()
def sample():
    return {"ids": torch.arange(40).reshape(8, 5)}
"""


@pytest.fixture
def mlserve(tmp_path):
    """Run mlserve in a folder of the test's own, which Python imports from, too."""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    servers = []

    def run(*words):
        done = subprocess.run(
            [MLSERVE, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def up(package):
        server = subprocess.Popen(
            [MLSERVE, "up", package, "--port", "0"],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        servers.append(server)
        said = []
        for line in server.stderr:
            said.append(line)
            found = re.search(r"serving at (http://\S+)", line)
            if found:
                return found[1]
        raise AssertionError("".join(said))

    run.up = up
    yield run
    for server in servers:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
        assert server.returncode == 0


def ask(url, model, name, datatype, rows):
    """Infer through the Open Inference Protocol: (status, the first output's data or the error)."""
    shape = [len(rows), len(rows[0])]
    flat = [value for row in rows for value in row]
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": flat}
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/infer",
        data=json.dumps({"inputs": [tensor]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)["outputs"][0]["data"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_a_torch_program_is_served_as_its_module_answers(mlserve, tmp_path):
    import torch

    (tmp_path / "model.py").write_text(LOOKUP)
    mlserve("export", "model.py", "-o", "package", "--engine", "torch")
    url = mlserve.up("package")

    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 2)
    expected = table(torch.tensor([[1, 2, 3, 4, 5]])).sum(1).tolist()[0]
    status, found = ask(url, "lookup", "ids", "INT64", [[1, 2, 3, 4, 5]])
    assert status == 200
    assert found == pytest.approx(expected, rel=1e-6)
    status, error = ask(url, "lookup", "ids", "INT64", [[1, 2, 3, 4, 50]])
    assert status == 400
    assert "input 'ids' holds 50, and the model takes 0 to 49" in error


def test_the_engine_of_the_documentation_is_served(mlserve, tmp_path):
    page = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    (tmp_path / "adder.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    (tmp_path / "table.txt").write_text("1 2 3")
    mlserve("export", "table.txt", "-o", "adder-package", "--engine", "adder:Adder")
    url = mlserve.up("adder-package")

    assert ask(url, "table", "x", "FP32", [[0, 0, 0], [10, 20, 30]]) == (
        200,
        [1.0, 2.0, 3.0, 11.0, 22.0, 33.0],
    )
