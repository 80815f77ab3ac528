"""What a picture's bytes cost: `python benchmarks/serving/image.py [--seconds 2]`.

One picture of 1 × 3 × 224 × 224 float32 (602 KB) a request, to a model that only takes its mean, so
that all of the cost is in getting the bytes to the engine. As binary tensors, as a raw body, and as
JSON, beside a bare receiver of the same bytes, which parses nothing and answers at once. The server
has one core and wrk another, where there are two. The bytes go into the kernel and out of it in
every row of the table; that is the floor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from tiny import Served, drive, request, script, up

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest

SHAPE = (3, 224, 224)
CONNECTIONS = (1, 8)


def make(folder: Path) -> Package:
    """A package that answers the mean of each channel of (batch, 3, 224, 224) float32."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "image",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SHAPE[0]])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    rows = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    with create(folder / "image") as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(name="image", version="1", variant="fp32", inputs=(), outputs=())
        finish(draft, manifest, [{"x": rows}])
    return Package.open(folder / "image")


def message_bytes(url: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The length of what wrk sends: its request line and headers, and the body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {url.removeprefix('http://')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return len("\r\n".join(lines)) + len(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=2, choices=range(1, 31), metavar="1-30")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 31), metavar="1-30")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    load = os.getloadavg()[0]
    print(f"server on core {cores[0]}, wrk on core {cores[-1]}, load before {load:.1f}")
    path = "/v2/models/image/infer"
    binary, headers = request(SHAPE, binary=True)
    text, _ = request(SHAPE, binary=False)
    raw = binary[-4 * int(np.prod(SHAPE)) :]
    bodies = {
        "binary": (binary, headers),
        "raw": (raw, {"Inference-Header-Content-Length": "0"}),
        "JSON": (text, {}),
    }
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scripts = {}
        for name, (body, more) in bodies.items():
            (folder / name).mkdir()
            scripts[name] = script(folder / name, body, more)
        served = Served(up(make(folder)), mine)
        # The port is the one thing in the request that is not known before; its length is.
        length = message_bytes("http://127.0.0.1:00000", path, raw, bodies["raw"][1])
        receiver = Path(__file__).with_name("receiver.py")
        bare = Served([sys.executable, str(receiver), str(length)], mine)
        try:
            ways = {"bare receiver": (bare, scripts["raw"])}
            ways |= {name: (served, scripts[name]) for name in bodies}
            for server, lua in ways.values():
                drive(server, path, lua, CONNECTIONS[-1], 1, theirs)  # warms it up
            for _ in range(options.rounds):
                for connections in CONNECTIONS:
                    for name, (server, lua) in ways.items():
                        one = drive(server, path, lua, connections, options.seconds, theirs)
                        found.setdefault((name, connections), []).append(one)
        finally:
            served.stop()
            bare.stop()
    sizes = {name: len(body) for name, (body, _) in bodies.items()} | {"bare receiver": len(raw)}
    print(
        "body            KB  connections  requests/s   MB/s   p50 ms   p99 ms  CPU µs  of the floor"
    )
    for connections in CONNECTIONS:
        floor = 0.0
        for name in ways:
            rate, p50, p99, cpu_us = (
                statistics.median(each[key] for each in found[name, connections])
                for key in ("rate", "p50", "p99", "cpu_us")
            )
            floor = floor or rate
            print(
                f"{name:13} {sizes[name] / 1e3:5,.0f} {connections:12} {rate:11,.0f} "
                f"{rate * sizes[name] / 1e6:6,.0f} {p50:8.2f} {p99:8.2f} {cpu_us:7.0f} "
                f"{rate / floor:13.0%}"
            )


if __name__ == "__main__":
    main()
