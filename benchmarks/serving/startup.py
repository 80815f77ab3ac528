"""How soon a server answers: `python benchmarks/serving/startup.py [--rounds 5]`.

From the start of the process to the first 200 of /readyz, of `mlserve up PKG` and of an emitted
server folder, beside what no server can leave out: in a fresh process, ONNX Runtime is imported,
the session is made, and every batch size that the server warms up is run once. The interpreter's
own start is not in that figure.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import convolutions
from tiny import MODELS, make, up

from mlserve_cli.package.package import Package
from mlserve_cli.runtime import settings

POLL_S = 0.005
QUESTION = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

ENGINE = """
import time
began = time.perf_counter()
import sys
import numpy as np
import onnxruntime as ort
model, threads, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
(entry,) = session.get_inputs()
size = 1
while True:
    session.run(None, {entry.name: np.zeros((size, *entry.shape[1:]), np.float32)})
    if size >= most:
        break
    size = min(2 * size, most)
print(time.perf_counter() - began)
"""


def engine_s(package: Package, threads: int, max_batch: int) -> float:
    """Seconds that the engine alone takes until it is warm, in a process of its own."""
    model = package.path / "serve" / package.manifest.model
    command = [sys.executable, "-c", ENGINE, str(model), str(threads), str(max_batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def ready_s(command: list[str]) -> float:
    """Seconds from the start of a server to its first yes; it is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    environ = {**os.environ, "MLSERVE_PORT": str(port)}
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        while not _is_ready(port):
            if process.poll() is not None:
                raise SystemExit(f"the server ended:\n{process.stderr.read()}")
            time.sleep(POLL_S)
        return time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
            line.sendall(QUESTION)
            return re.match(rb"HTTP/1.1 200 ", line.recv(4096)) is not None
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 31), metavar="1-30")
    rounds = parser.parse_args().rounds
    print(f"load before {os.getloadavg()[0]:.1f}")
    print("model   size MB  engine alone   mlserve up   beyond   python server.py   beyond   (s)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        packages = {name: make(folder, name, widths) for name, widths in MODELS.items()}
        packages["cnn"] = convolutions.make(folder, "cnn")
        for name, package in packages.items():
            server = folder / f"{name}-server"
            mlserve = str(Path(sys.executable).with_name("mlserve"))
            subprocess.run(
                [mlserve, "emit", str(package.path), "-o", str(server)],
                check=True,
                capture_output=True,
            )
            chosen = settings.load(server / settings.FILE, {}).sizing[name]
            own, ups, scripts = [], [], []
            for _ in range(rounds):
                own.append(engine_s(package, chosen.threads, chosen.max_batch))
                ups.append(ready_s(up(package)[:-2]))  # without its port: that comes from outside
                scripts.append(ready_s([sys.executable, str(server / "server.py")]))
            least, first, second = (statistics.median(each) for each in (own, ups, scripts))
            size = (package.path / "serve" / package.manifest.model).stat().st_size / 1e6
            print(
                f"{name:6} {size:8.1f} {least:13.2f} {first:12.2f} {first - least:8.2f} "
                f"{second:18.2f} {second - least:8.2f}"
            )


if __name__ == "__main__":
    main()
