"""The same tiny model behind several servers: `python benchmarks/serving/against_peers.py`.

A network of 16→64→3 answers JSON requests of one row; at that size all of the cost is the server's.
Each peer is installed into an environment of its own below `--environments`, which is made at the
first run and kept. All servers are up at the same time, idle but for the one whose turn it is; the
rounds are interleaved and the medians count. The server's CPU is that of its whole process tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tiny import make, script

HERE = Path(__file__).parent / "peers"
WIDTHS = (16, 64, 3)
ROW = np.linspace(-1, 1, WIDTHS[0], dtype=np.float32).tolist()
OIP = {"inputs": [{"name": "x", "shape": [1, WIDTHS[0]], "datatype": "FP32", "data": ROW}]}
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CONNECTIONS = (1, 32)
ENVIRONMENTS = Path.home() / ".cache" / "mlserve" / "benchmarks"
PEERS = {
    "triton": ["nvidia-pytriton==0.7.0", "onnxruntime", "numpy<2"],
    "mlserver": ["mlserver==1.7.1", "onnxruntime"],
    "litserve": ["litserve==0.2.19", "onnxruntime"],
    "bentoml": ["bentoml==1.4.39", "onnxruntime"],
}


@dataclass
class Running:
    """A server that answers, what it is sent, and what was measured of it."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    body: bytes
    rates: dict[int, list[float]] = field(default_factory=dict)
    p50: dict[int, list[float]] = field(default_factory=dict)
    p99: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """Seconds of CPU that it and all processes below it have taken."""
        return sum(_cpu_s(pid) for pid in _tree(self.process.pid))

    def stop(self) -> None:
        """End the whole tree, by its own group."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # some leave workers behind
        self.process.wait()


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    except OSError:
        pass
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def environment(name: str, base: Path) -> Path:
    """The Python of a peer's own environment, made where there is none."""
    folder = base / name
    python = folder / "bin" / "python"
    mark = folder / "complete"
    if not mark.exists() and not (python.exists() and _imports(python, name)):
        print(f"installing {name} into {folder} …", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name]], check=True)
        mark.touch()
    return python


def _imports(python: Path, name: str) -> bool:
    module = "pytriton" if name == "triton" else name
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    name: str, command: list[object], url: str, body: object, folder: Path, **environ: str
) -> Running:
    """Start a server and wait until it answers what is sent to it."""
    text = json.dumps(body).encode()
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **environ},
            start_new_session=True,
        )
    running = Running(name, process, url, text)
    end = time.monotonic() + 90
    while True:
        request = urllib.request.Request(url, text, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                reply.read()
                return running
        except (urllib.error.URLError, OSError) as error:
            answered = isinstance(error, urllib.error.HTTPError) and error.code == 500
            if process.poll() is not None or time.monotonic() > end or answered:
                if isinstance(error, urllib.error.HTTPError):
                    error = OSError(error.read().decode(errors="replace")[:2000])
                running.stop()
                log_text = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise SystemExit(f"{name} does not answer: {error}\n{log_text}") from error
            time.sleep(0.2)


def mlserve(model: Path, folder: Path, base: Path) -> Running:
    port = free_port()
    command = [Path(sys.executable).with_name("mlserve"), "up", folder / "tiny", "--port", port]
    return start("mlserve", command, f"http://127.0.0.1:{port}/v2/models/tiny/infer", OIP, folder)


def litserve(model: Path, folder: Path, base: Path) -> Running:
    port, python = free_port(), environment("litserve", base)
    command = [python, HERE / "litserve_server.py", model, port]
    return start("litserve", command, f"http://127.0.0.1:{port}/v2/models/tiny/infer", OIP, folder)


def bentoml(model: Path, folder: Path, base: Path) -> Running:
    port, python = free_port(), environment("bentoml", base)
    shutil.copy(HERE / "bentoml_server.py", folder)
    command = [python.with_name("bentoml"), "serve", "bentoml_server:Tiny"]
    command += ["--host", "127.0.0.1", "--port", port]
    url = f"http://127.0.0.1:{port}/infer"
    environ = {"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "true"}
    return start("bentoml", command, url, {"x": [ROW]}, folder, **environ)


def mlserver(model: Path, folder: Path, base: Path) -> Running:
    port, python = free_port(), environment("mlserver", base)
    place = folder / "mlserver"
    place.mkdir()
    shutil.copy(HERE / "mlserver_model.py", place)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (place / "settings.json").write_text(json.dumps(settings))
    described = {
        "name": "tiny",
        "implementation": "mlserver_model.Tiny",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
    }
    (place / "model-settings.json").write_text(json.dumps(described))
    url = f"http://127.0.0.1:{port}/v2/models/tiny/infer"
    command = [python.with_name("mlserver"), "start", place]
    return start("mlserver", command, url, OIP, place, MODEL=str(model))


def triton(model: Path, folder: Path, base: Path) -> Running:
    port, python = free_port(), environment("triton", base)
    site = next((python.parent.parent / "lib").glob("python*/site-packages"))
    server = folder / "tritonserver"
    shutil.copytree(site / "pytriton" / "tritonserver", server)
    release = site.parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / release / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python")
    place = folder / "repository" / "tiny"
    (place / "1").mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", place / "1" / "model.py")
    (place / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 64\ndynamic_batching {}\n'
        f'input [{{ name: "x", data_type: TYPE_FP32, dims: [{WIDTHS[0]}] }}]\n'
        f'output [{{ name: "y", data_type: TYPE_FP32, dims: [{WIDTHS[-1]}] }}]\n'
        "instance_group [{ kind: KIND_CPU, count: 1 }]\n"
    )
    libraries = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    command = [
        server / "bin" / "tritonserver",
        f"--model-repository={folder / 'repository'}",
        f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--log-warning=false",
    ]
    environ = {
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{libraries}",
        "SITE_PACKAGES": str(site),
        "MODEL": str(model),
    }
    url = f"http://127.0.0.1:{port}/v2/models/tiny/infer"
    return start("triton", command, url, OIP, folder, **environ)


def measure(running: Running, lua: Path, connections: int, seconds: int) -> None:
    """One round of wrk, kept in `running`."""
    before = running.cpu_s()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(lua)]
    done = subprocess.run(
        [*command, running.url], capture_output=True, text=True, check=True, timeout=seconds + 30
    )
    if "Non-2xx" in done.stdout:
        raise SystemExit(f"{running.name} refused some requests:\n{done.stdout}")
    count = int(_find(r"(\d+) requests in", done.stdout))
    running.rates.setdefault(connections, []).append(
        float(_find(r"Requests/sec:\s+([\d.]+)", done.stdout))
    )
    running.cpu.setdefault(connections, []).append((running.cpu_s() - before) / max(count, 1) * 1e6)
    for share, kept in ((50, running.p50), (99, running.p99)):
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", done.stdout).groups()
        factor = {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
        kept.setdefault(connections, []).append(float(value) * factor)


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    return found[1]


def show(servers: list[Running], connections: int) -> None:
    middle = statistics.median
    ours = middle(servers[0].rates[connections])
    print(f"\n{connections} connection{'s' if connections > 1 else ''}")
    print(f"{'server':9} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8}  mlserve is")
    for server in servers:
        rate = middle(server.rates[connections])
        print(
            f"{server.name:9} {rate:11,.0f} {middle(server.p50[connections]):8.2f} "
            f"{middle(server.p99[connections]):8.2f} {middle(server.cpu[connections]):8.0f}  "
            f"{ours / rate:.2f} ×"
        )


def main() -> None:
    starters: dict[str, Callable[[Path, Path, Path], Running]] = {
        "triton": triton, "mlserver": mlserver, "litserve": litserve, "bentoml": bentoml,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", default=",".join(starters), help="which, with commas")
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 31), metavar="1-30")
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 31), metavar="1-30")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    unknown = set(filter(None, options.peers.split(","))) - starters.keys()
    if unknown:
        raise SystemExit(
            f"no such peer: {', '.join(sorted(unknown))}; there is {', '.join(starters)}"
        )
    print(f"load before {os.getloadavg()[0]:.1f}")
    servers: list[Running] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        package = make(folder, "tiny", WIDTHS)
        model = package.path / "serve" / "model.onnx"
        try:
            servers.append(mlserve(model, folder, options.environments))
            for name in filter(None, options.peers.split(",")):
                servers.append(  # noqa: PERF401 - those that run are stopped if one fails
                    starters[name](model, folder, options.environments)
                )
            scripts = {}
            for server in servers:
                (folder / f"lua-{server.name}").mkdir()
                headers = {"Content-Type": "application/json"}
                scripts[server.name] = script(folder / f"lua-{server.name}", server.body, headers)
                measure(server, scripts[server.name], CONNECTIONS[-1], 1)  # warms it up
                for kept in (server.rates, server.p50, server.p99, server.cpu):
                    kept.clear()
            for connections in CONNECTIONS:
                for _ in range(options.rounds):
                    for server in servers:
                        measure(server, scripts[server.name], connections, options.seconds)
        finally:
            for server in servers:
                server.stop()
    for connections in CONNECTIONS:
        show(servers, connections)


if __name__ == "__main__":
    main()
