"""Servers to put load on: one that is made for it, and ours."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlserve_cli.bench.load import Aim
from tests.integration.protocols.conftest import RUN, fill

BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}]}'
MESSAGE = b"POST /v2/models/fake/infer HTTP/1.1\r\nHost: fake\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@pytest.fixture
def fake():
    """Start a fake server: `fake(service_ms=4)` gives its port."""
    started = []

    def start(**wish):
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fake_server.py")), json.dumps(wish)],
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return int(process.stdout.readline())

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def aimed(fake):
    """An aim at a fake server: `aimed(service_ms=4)`."""

    def make(**wish):
        return Aim(host="127.0.0.1", port=fake(**wish), messages=[MESSAGE])

    return make


@dataclass(frozen=True)
class Served:
    """A running server of ours with several models: its URLs, and the folder of their packages."""

    url: str
    grpc: str
    folder: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """One server for all tests of this folder; none of them changes it."""
    folder = tmp_path_factory.mktemp("models")
    fill(folder)
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    url, _, port = process.stdout.readline().strip().partition(" ")
    yield Served(url, f"grpc://127.0.0.1:{port}", folder)
    process.terminate()
    process.communicate(timeout=60)
