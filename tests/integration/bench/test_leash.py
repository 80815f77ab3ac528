"""What `plan` and `bench` start ends with them, also where they are killed."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlserve_cli.cli import temporary

COMMAND = [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()"]

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="it looks at processes")


def children(pid):
    """Those of a process, with their command lines."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {
            int(each): Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") for each in listed
        }
    except OSError:
        return {}


def started(process, words):
    """The processes that one has started, once there is one with each of the words."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        found = children(process.pid)
        if all(any(word in line for line in found.values()) for word in words):
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing with {words} was started: {process.communicate()}")


def ended(watched, *, within_s):
    """Whether each of those processes is gone in time."""
    end = time.monotonic() + within_s
    return all(select.select([fd], [], [], max(0, end - time.monotonic()))[0] for fd in watched)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("plan", "--rate", "50", "--p99-ms", "2000", "--seconds", "30"),
            [b"up", b"mlserve_cli.bench.load.worker"],  # the server is ready, and under load
        ),
        (
            ("bench", "--scenario", "single-stream", "--seconds", "60"),
            [b"mlserve_cli.bench.mlperf.child"],
        ),
    ],
)
def test_a_command_that_is_killed_leaves_nothing_running(iris_package, tmp_path, arguments, words):
    if arguments[0] == "bench":
        pytest.importorskip("mlperf_loadgen")
    name, *options = arguments
    if name == "plan":
        options += ["-o", "server.toml"]
    command = [*COMMAND, name, str(iris_package().path), *options]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    watched = []
    try:
        watched += [os.pidfd_open(pid) for pid in started(process, words)]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert ended(watched, within_s=20)
        # What it had of files lies where the next command sweeps.
        assert all(path.name.startswith(temporary.PREFIX) for path in scratch.iterdir())
    finally:
        process.kill()
        process.communicate()
        for fd in watched:
            if not select.select([fd], [], [], 0)[0]:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def test_a_process_on_a_leash_is_the_module_that_it_runs(tmp_path):
    from mlserve_cli.bench.leash import Leash

    with Leash() as leash:
        done = leash.start(
            "json.tool", ["--compact"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert done.communicate(b'{"a": 1}', timeout=60)[0] == b'{"a":1}\n'
        assert done.returncode == 0
        idle = leash.start("http.server", ["--bind", "127.0.0.1", "0"], stderr=subprocess.DEVNULL)
        assert idle.poll() is None
    assert idle.wait(timeout=30) != 0
