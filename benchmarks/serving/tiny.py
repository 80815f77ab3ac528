"""What serving costs: `python benchmarks/serving/tiny.py [--seconds 4]`.

Two models behind `mlserve up`, driven by wrk over the loopback: a tiny one with JSON, where all of
the cost is the server's, and one of about 2 ms with binary tensors, whose rows a second are set
against a bare loop over the same engine, alone and in batches. The server has one core and wrk
another, where there are two; the bare loop has the server's core and threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.manifest import Manifest

CONNECTIONS = (1, 32)
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MODELS = {"tiny": (4, 64, 3), "slow": (256, 2048, 2560, 2560, 10)}  # widths of the layers
BATCHES = (1, 32)


def make(folder: Path, name: str, widths: tuple[int, ...]) -> Package:
    """A package of a multilayer perceptron with random weights; only its cost matters."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(widths)):
        matrix = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    shapes = {"x": widths[0], last: widths[-1]}
    x, y = (
        helper.make_tensor_value_info(key, TensorProto.FLOAT, ["batch", width])
        for key, width in shapes.items()
    )
    graph = helper.make_graph(nodes, name, [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with create(folder / name) as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(name=name, version="1", variant="fp32", inputs=(), outputs=())
        finish(draft, manifest, [{"x": rng.normal(size=(64, widths[0])).astype(np.float32)}])
    return Package.open(folder / name)


def request(shape: tuple[int, ...], *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """The body and headers of one row of that shape."""
    row = np.linspace(-1, 1, math.prod(shape), dtype=np.float32)
    entry: dict[str, object] = {"name": "x", "shape": [1, *shape], "datatype": "FP32"}
    if not binary:
        return json.dumps({"inputs": [{**entry, "data": row.tolist()}]}).encode(), {}
    entry["parameters"] = {"binary_data_size": row.nbytes}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return text + row.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def script(folder: Path, body: bytes, headers: dict[str, str]) -> Path:
    """The same as a script for wrk."""
    text = "".join([f"\\{byte:03d}" for byte in body])  # Lua's decimal escapes
    lines = ['wrk.method = "POST"', f'wrk.body = "{text}"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    path = folder / "request.lua"
    path.write_text("\n".join(lines))
    return path


def up(package: Package) -> list[str]:
    """The command that serves a package at a free port."""
    command = [Path(sys.executable).with_name("mlserve"), "up", package.path, "--port", "0"]
    return [str(part) for part in command]


class Served:
    """A server on cores of its own; it says on stderr where it listens."""

    def __init__(self, command: list[str], cores: set[int], **environ: str) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.url = ""
        for line in self.process.stderr or ():
            if found := re.search(r"http://[\d.]+:\d+", line):
                self.url = found[0]
                return
        raise SystemExit("the server did not start")

    def cpu_s(self) -> float:
        """Seconds of CPU that it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)


def drive(
    served: Served, path: str, lua: Path, connections: int, seconds: int, cores: set[int]
) -> dict[str, float]:
    """Requests a second, their latency in ms, and the server's CPU for each in µs."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(lua)]
    before = served.cpu_s()
    done = subprocess.run(
        [*command, served.url + path],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    cpu_s = served.cpu_s() - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"some requests failed:\n{done.stdout}")
    count = int(re.search(r"(\d+) requests in", done.stdout)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])
    latency = {share: _ms(done.stdout, share) for share in (50, 99)}
    return {"rate": rate, "p50": latency[50], "p99": latency[99], "cpu_us": cpu_s / count * 1e6}


def _ms(text: str, share: int) -> float:
    value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def bare(package: Package, batch: int, seconds: float, cores: set[int]) -> float:
    """Rows a second of a loop that does nothing but run the engine on those cores."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    engine = package.engine(EngineOptions(threads=len(cores)))
    rows = {"x": np.zeros((batch, MODELS[package.manifest.name][0]), np.float32)}
    engine.run(rows)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        engine.run(rows)
        count += batch
    rate = count / (time.perf_counter() - began)
    engine.close()
    os.sched_setaffinity(0, everywhere)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=4, choices=range(1, 31), metavar="1-30")
    seconds = parser.parse_args().seconds
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    load = os.getloadavg()[0]
    print(f"server on core {cores[0]}, wrk on core {cores[-1]}, load before {load:.1f}")
    print(
        "model  input   connections  requests/s   p50 ms   p99 ms  server CPU µs  of the bare loop"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, widths in MODELS.items():
            package = make(folder, name, widths)
            body, headers = request(widths[:1], binary=name == "slow")
            lua = script(folder, body, headers)
            loops = {batch: bare(package, batch, seconds / 2, mine) for batch in BATCHES}
            served = Served(up(package), mine)
            try:
                path = f"/v2/models/{name}/infer"
                drive(served, path, lua, 1, 1, theirs)  # the first second warms both up
                for connections, loop in zip(CONNECTIONS, loops.values(), strict=True):
                    found = drive(served, path, lua, connections, seconds, theirs)
                    kind = "binary" if headers else "JSON"
                    # A request of the tiny model costs a hundred runs of it: no share to speak of.
                    share = f"{found['rate'] / loop:17.0%}" if name == "slow" else ""
                    print(
                        f"{name:6} {kind:7} {connections:11} {found['rate']:11,.0f} "
                        f"{found['p50']:8.2f} {found['p99']:8.2f} {found['cpu_us']:14.0f} {share}"
                    )
            finally:
                served.stop()
            for batch, rate in loops.items():
                print(f"{name:6} bare engine loop, batches of {batch}: {rate:,.0f} rows/s")


if __name__ == "__main__":
    main()
