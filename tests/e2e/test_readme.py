"""The commands of the README work as they stand, in order, in an empty folder."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def needs(module):
    """Skip where a package that only carries a sample's data is not installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None,
        reason=f"'{module}' is not installed; scripts/install installs it",
    )


PAGES = [
    "README.md",
    "samples/tabular/README.md",
    "samples/boosting/README.md",
    "docs/export/classical.md",
    "docs/definition.md",
    "docs/ensembles.md",
    "docs/export.md",
    "docs/package.md",
    "docs/serving.md",
    "docs/batch.md",
    "docs/batching.md",
    "docs/benchmarking.md",
    "docs/operating.md",
    "docs/quantization.md",
    "docs/traffic.md",
    "docs/feedback.md",
    "docs/protocols/tensorflow-serving.md",
    "docs/protocols/torchserve.md",
    pytest.param("samples/foreign/README.md", marks=[pytest.mark.slow, needs("silero_vad")]),
]


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(block):
    """The block's command lines, with continued lines joined and comments taken off."""
    joined = block.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def shell(tmp_path):
    """Run command lines as a reader would, from a folder that holds the samples alone."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLSERVE_PORT": str(port),
    }
    servers = []

    def run(line):
        line = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        line = line.replace("http://localhost:8000", f"http://127.0.0.1:{port}")
        if line.startswith("mlserve up") or line.endswith("server.py"):
            stop()
            server = subprocess.Popen(
                shlex.split(line), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
            )
            servers.append(server)
            wait(server)
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def wait(server):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert server.poll() is None, server.stderr.read()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)  # nothing tells another process when a port opens
        pytest.fail("the server did not become ready within a minute")

    def stop():
        while servers:
            server = servers.pop()
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=30)
            assert server.returncode == 0

    yield run
    stop()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs_in_order(page, shell):
    ran = 0
    for block in blocks(page, "bash"):
        for line in commands(block):
            if line.startswith("scripts/"):
                script = ROOT / line.split()[0]
                assert os.access(script, os.X_OK), line  # run by CI itself, not from inside a test
            elif not line.startswith(("git ", "cd ", "python -m pip")):  # test_wheel installs
                output = shell(line)
                ran += 1
                if line.startswith("curl"):
                    assert output.strip(), line
    assert ran >= 3


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "samples").glob("*/README.md"))),
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("**/*.md"))),
    ],
)
def test_every_mlserve_line_of_the_documentation_parses(page):
    """Also of transcripts, whose commands are too long to run here."""
    import typer

    from mlserve_cli.cli.main import app

    root = typer.main.get_command(app)
    lines = [line for block in blocks(page, "bash") for line in commands(block)]
    lines += [
        line.removeprefix("$ ").partition("  #")[0]
        for block in blocks(page, "console")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]
    for line in lines:
        words = shlex.split(line)
        if words[0] != "mlserve" or "|" in words or any(word.startswith("<") for word in words):
            continue
        command = root.commands.get(words[1])
        assert command is not None, line
        command.make_context(words[1], words[2:])
