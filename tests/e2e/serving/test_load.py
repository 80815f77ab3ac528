"""Five hundred clients at once, well-behaved, broken and gone: each gets what is theirs."""

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

CLIENTS = 500
LIMIT_MB = 1
SECONDS = 60  # a hang is found out; nothing here takes as long


@pytest.fixture(scope="session")
def slow_onnx(tmp_path_factory):
    """Milliseconds of arithmetic, and a table that `pick` must point into: 9 is poison."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(7)
    sizes = (16, 1024, 1536, 1536, 3)
    nodes, weights, last = [], [numpy_helper.from_array(np.arange(4.0).astype("f4"), "table")], "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        matrix = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    nodes[-1].output[0] = "y"
    nodes.append(helper.make_node("Gather", ["table", "pick"], ["picked"]))
    graph = helper.make_graph(
        nodes,
        "slow",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]]),
            helper.make_tensor_value_info("pick", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sizes[-1]]),
            helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["batch"]),
        ],
        weights,
    )
    path = tmp_path_factory.mktemp("slow") / "slow.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture
def models(iris_package, slow_onnx, tmp_path):
    """A repository of a tiny model, which runs on the loop, and a slow one, which does not."""
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.runtime.manifest import Manifest

    root = tmp_path / "models"
    iris_package(root / "iris")
    with create(root / "slow") as draft:
        shutil.copyfile(slow_onnx, draft.serve / "model.onnx")
        manifest = Manifest(name="slow", version="1", variant="fp32", inputs=(), outputs=())
        made = finish(draft, manifest, [slow_rows(np.arange(16))])
    assert made.batch.invariant, made.batch.reason
    return root


@pytest.fixture
def server(start, models):
    command = Path(sys.executable).with_name("mlserve")
    limits = {
        "MLSERVE_MAX_BODY_MB": str(LIMIT_MB),
        "MLSERVE_MAX_QUEUE_ROWS": "100000",
        "MLSERVE_SHUTDOWN_GRACE_S": "1",
    }
    return start(command, "up", models, "--port", "0", env=os.environ | limits)


def slow_rows(seeds):
    """Rows that are told apart by their seed."""
    seeds = np.asarray(seeds)
    x = np.sin(np.outer(seeds + 1, np.arange(1, 17))).astype(np.float32)
    return {"x": x, "pick": (seeds % 4).astype(np.int64)}


def iris_rows(seeds):
    return {"x": 3 + 2 * np.sin(np.outer(np.asarray(seeds) + 1, np.arange(1, 5))).astype("f4")}


def message(tensors):
    """An inference request of those tensors."""
    names = {"float32": "FP32", "int64": "INT64"}
    items = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": names[array.dtype.name],
            "data": array.ravel().tolist(),
        }
        for name, array in tensors.items()
    ]
    return json.dumps({"inputs": items}).encode()


def post(path, body, length=None):
    size = len(body) if length is None else length
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    ).encode() + body


class Clients:
    """Raw connections to one server."""

    def __init__(self, url):
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)

    async def send(self, request):
        """(status, body) of the reply to those bytes; (None, …) where the server said nothing."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            reply = await asyncio.wait_for(reader.read(), SECONDS)
        finally:
            writer.close()
        found = re.match(rb"HTTP/1\.1 (\d+) ", reply)
        return (int(found[1]) if found else None), reply.partition(b"\r\n\r\n")[2]

    async def send_and_leave(self, request):
        _, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(request)
        await writer.drain()
        writer.close()

    async def infer(self, name, tensors):
        status, body = await self.send(post(f"/v2/models/{name}/infer", message(tensors)))
        document = json.loads(body)
        if status != 200:
            return status, document["error"]
        return status, {
            output["name"]: np.array(output["data"], np.float32).reshape(output["shape"])
            for output in document["outputs"]
        }


SLOW, IRIS = "/v2/models/slow/infer", "/v2/models/iris/infer"


async def client(clients, expected, seed):
    """One of the five hundred: asks, and asserts that the answer is the one that it must be."""
    kind = seed % 14
    one, several = slow_rows([seed]), slow_rows(seed + np.arange(5))
    if kind in (0, 1, 2, 3):
        name, tensors = ("slow", one) if kind < 2 else ("iris", iris_rows([seed]))
        check(await clients.infer(name, tensors), expected(name, tensors))
    elif kind == 4:
        check(await clients.infer("slow", several), expected("slow", several))
    elif kind == 5:
        many = slow_rows(seed + np.arange(150))  # more than a batch takes
        check(await clients.infer("slow", many), expected("slow", many))
    elif kind == 6:
        status, error = await clients.infer("slow", {**one, "pick": np.array([9])})
        assert (status, "takes indices from 0 to 3" in error) == (400, True), error
    elif kind == 7:
        await clients.send_and_leave(post(SLOW, message(several)))
    elif kind == 8:
        await clients.send_and_leave(post(SLOW, message(one)[:-20], length=len(message(one))))
    elif kind == 9:
        status, body = await clients.send(post(IRIS, b'{"inputs": [{"name"'))
        assert (status, b"failed to parse" in body) == (400, True), body
    elif kind == 10:
        status, error = await clients.infer("slow", {**one, "x": one["x"][:, :7]})
        assert (status, "unexpected shape" in error) == (400, True), error
    elif kind == 11:
        status, error = await clients.infer("iris", {"x": np.ones((1, 4), np.int64)})
        assert (status, "expects 'FP32'" in error) == (400, True), error
    elif kind == 12:
        status, error = await clients.infer("nope", one)
        assert (status, error) == (404, "Request for unknown model: 'nope' is not found")
    else:
        size = (LIMIT_MB << 20) + 1
        status, _ = await clients.send(post(SLOW, b" " * size))
        assert status == 413
        status, _ = await clients.send(b"\x16\x03\x01 this is no HTTP \x00\r\n\r\n")
        assert status in (400, None)


def check(found, expected):
    status, outputs = found
    assert status == 200, outputs
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-4, atol=1e-5)


@pytest.fixture
def expected(models):
    """What the engine itself answers, in this process."""
    from mlserve_cli.package.package import Package

    engines = {name: Package.open(models / name).engine() for name in ("slow", "iris")}
    yield lambda name, tensors: engines[name].run(tensors)
    for engine in engines.values():
        engine.close()


def test_everybody_gets_the_right_answer_or_the_right_error(server, expected):
    clients = Clients(server.url)

    async def storm():
        await asyncio.gather(*(client(clients, expected, seed) for seed in range(CLIENTS)))

    asyncio.run(asyncio.wait_for(storm(), 2 * SECONDS))

    assert server.get("/readyz")[0] == 200
    asyncio.run(asyncio.wait_for(queue_is_empty(server), SECONDS))
    _, metrics = server.get("/metrics")
    # Each poisoned request was found among its neighbours, and is the client's own mistake.
    assert 'reason="engine"' not in metrics
    assert 'mlserve_batches_total{closed="half",model="slow",version="1"}' in metrics
    # Not one by one: while a batch ran, others gathered.
    count = re.search(r'batch_rows_count\{model="slow",version="1"\} (\S+)', metrics)[1]
    total = re.search(r'batch_rows_sum\{model="slow",version="1"\} (\S+)', metrics)[1]
    assert float(total) > 1.5 * float(count)
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def queue_is_empty(server):
    """Those who left are found out a moment later."""
    while True:
        _, metrics = await asyncio.to_thread(server.get, "/metrics")
        rows = re.findall(r"^mlserve_queue_rows\{.*\} (\S+)$", metrics, re.MULTILINE)
        assert len(rows) == 2
        if set(rows) == {"0.0"}:
            return
        await asyncio.sleep(0.05)


def test_work_in_flight_is_answered_after_sigterm(server, expected):
    clients = Clients(server.url)
    batches = [slow_rows(seed + np.arange(60)) for seed in range(60)]

    async def main():
        tasks = [asyncio.create_task(clients.infer("slow", rows)) for rows in batches]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in tasks)
        server.process.send_signal(signal.SIGTERM)
        get_ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        while (await clients.send(get_ready))[0] != 503:
            pass
        tiny = iris_rows([1])
        check(await clients.infer("iris", tiny), expected("iris", tiny))  # a new connection
        return await asyncio.gather(*tasks)

    for rows, found in zip(batches, asyncio.run(asyncio.wait_for(main(), SECONDS)), strict=True):
        check(found, expected("slow", rows))
    assert server.wait() == 0
    assert "Traceback" not in server.output
