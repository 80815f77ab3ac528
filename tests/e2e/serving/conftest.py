"""Real servers in processes of their own, on a free port of the loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

START_S = 60  # a shared machine may take its time; a hang is found out anyway


@pytest.fixture(autouse=True)
def _no_long_grace(monkeypatch):
    monkeypatch.setenv("MLSERVE_SHUTDOWN_GRACE_S", "0.1")


class Running:
    """A server process; `url` is what it said of itself."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.lines = []
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._seen:
                self.lines.append(line.rstrip("\n"))
                self._seen.notify_all()
        with self._seen:
            self._seen.notify_all()

    def line(self, pattern):
        """Wait for a line that matches and return the match."""
        end = time.monotonic() + START_S
        with self._seen:
            while True:
                for line in self.lines:
                    if found := re.search(pattern, line):
                        return found
                left = end - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"no line matches {pattern!r} in:\n{self.output}")
                self._seen.wait(min(left, 0.2))

    @property
    def output(self):
        return "\n".join(self.lines)

    @property
    def url(self):
        return self.line(r"(http://127\.0\.0\.1:\d+)").group(1)

    def get(self, path):
        return fetch(self.url + path)

    def post(self, path, body, content_type="application/json"):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return fetch(self.url + path, body, content_type)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self):
        status = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        self.process.stdout.close()
        return status


def fetch(url, body=None, content_type=None):
    """(status, parsed JSON or text) of one request."""
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except json.JSONDecodeError:
        return status, text


@pytest.fixture
def start():
    """Start a command as a server; it is ended with the test."""
    running = []

    def run(*command, **options):
        running.append(Running(command, **options))
        return running[-1]

    yield run
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.wait()
        elif not each.process.stdout.closed:
            each.wait()


MLSERVE = Path(sys.executable).with_name("mlserve")


@pytest.fixture
def up(start):
    """`mlserve up …` on a free port."""

    def run(source, *flags):
        return start(MLSERVE, "up", source, "--port", "0", *flags)

    return run


RUN = """
import os, sys
from pathlib import Path
from mlserve_cli.runtime import announcement, compat, reporting, settings
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve

reporting.install()
root = Path(sys.argv[1])
if len(sys.argv) > 2:  # the usual ports may be taken on a machine that runs tests
    http, grpc = map(int, sys.argv[2:])
    compat.PORTS["tensorflow-serving"] = compat.Ports(http=(http,), grpc=(grpc,))
server = Server(settings.load(root / "server.toml"), root)

def announce(url):
    print(url, "gRPC:", *announcement.grpc_addresses(server, url), flush=True)

serve(build_app(server), server, announce=announce)
"""


@pytest.fixture
def serve(start):
    """The server of a folder with a `server.toml` in it, which says where it is.

    ports: two to stand in for those of TensorFlow Serving, HTTP and gRPC.
    """

    def run(folder, *ports, **options):
        return start(sys.executable, "-c", RUN, folder, *ports, **options)

    return run


@pytest.fixture
def mlserve(tmp_path):
    """Run a command to its end."""

    def run(*command, **options):
        return subprocess.run(
            [str(part) for part in (MLSERVE, *command)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | options.get("env", {}),
        )

    return run
