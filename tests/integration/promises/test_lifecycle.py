"""Promises 18, 19, 22 and 24, and the memory that comes back: real engines, loaded and unloaded."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.traffic import TrafficRule

WIDE = 3000  # two matrices of 4 × 3000 × 3000 bytes: far more than what else comes and goes


def put(models: Path, name: str, version: str, *, width: int = 64, scale: float = 1.0) -> None:
    """A package of two matrix products with a bias of `scale`, x and y of shape (batch, width)."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(int(version))
    weights = [
        numpy_helper.from_array(
            generator.standard_normal((width, width), np.float32) * scale / width, f"w{index}"
        )
        for index in range(2)
    ]
    shape = ["batch", width]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "w1"], ["y"]),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    place = models / name / version
    place.parent.mkdir(parents=True, exist_ok=True)
    with create(place) as draft:
        save(model, str(draft.serve / "model.onnx"))
        manifest = Manifest(name=name, version=version, variant="fp32", inputs=(), outputs=())
        rows = {"x": generator.standard_normal((8, width), np.float32)}
        finish(draft, manifest, [rows])


def during(models: Path, block: Callable[[Server], Awaitable[Any]], **settings: Any) -> Any:
    """Run an async block while a server of `models` is up."""
    sizing = {name: Sizing(threads=1, max_batch=8) for name in ("small", "wide")}
    server = Server(
        Settings(models=str(models), sizing=sizing, state="", **settings), models.parent
    )

    async def main() -> Any:
        async with server.lifespan():
            return await block(server)

    return asyncio.run(main())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of two versions of a small model."""
    for version in ("1", "2"):
        put(tmp_path / "models", "small", version)
    return tmp_path / "models"


ROW = {"x": np.ones((1, 64), np.float32)}


def test_promise_18_canary_ab_and_shadow_are_built_in(models: Path) -> None:
    async def block(server: Server) -> Any:
        async def ask(key: str | None = None) -> str:
            model = server.traffic.route("small", key=key)
            await server.dataplane.infer(model, ROW)
            return model.manifest.version

        server.traffic.set_rule("small", TrafficRule(default="1", weights={"2": 20}))
        canary = Counter([await ask() for _ in range(100)])
        server.traffic.set_rule(
            "small", TrafficRule(default="1", weights={"2": 50}, sticky="header:X-User")
        )
        users = [{await ask(f"user-{user}") for _ in range(3)} for user in range(40)]
        server.traffic.set_rule("small", TrafficRule(default="1", shadow="2"))
        (shadow,) = server.registry.get("small", "1").shadows
        for _ in range(10):
            await ask()
            while shadow._tasks:
                await asyncio.wait(shadow._tasks)
        return canary, users, server.metrics.render().decode()

    canary, users, metrics = during(models, block)

    assert abs(canary["2"] - 20) <= 3
    assert all(len(versions) == 1 for versions in users)
    assert {version for versions in users for version in versions} == {"1", "2"}
    differ = 'mlserve_shadow_rows_total{model="small",result="differ",shadow="2",version="1"} 10.0'
    assert differ in metrics


def test_promise_18_a_request_sticks_by_a_header_over_http(models: Path) -> None:
    server = Server(
        Settings(models=str(models), sizing={"small": Sizing(threads=1)}, state=""), models.parent
    )
    with TestClient(build_app(server)) as client:
        server.traffic.set_rule(
            "small", TrafficRule(default="1", weights={"2": 50}, sticky="header:X-User")
        )
        item = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [1.0] * 64}
        met: dict[str, set[str]] = {}
        for user in ("ann", "bob", "cleo", "dan", "eve", "finn", "gus", "hal") * 2:
            reply = client.post(
                "/v2/models/small/infer", json={"inputs": [item]}, headers={"X-User": user}
            )
            met.setdefault(user, set()).add(reply.json()["model_version"])

    assert all(len(versions) == 1 for versions in met.values())
    assert len(set.union(*met.values())) == 2


def test_promise_19_latency_holds_while_another_version_loads(models: Path) -> None:
    """Live requests during a load take about as long as in a quiet time, not only on average."""
    put(models, "wide", "1", width=WIDE)
    put(models, "wide", "2", width=WIDE)

    async def block(server: Server) -> Any:
        async def ask() -> float:
            began = time.perf_counter()
            await server.dataplane.infer(server.traffic.route("wide", "1"), row)
            return time.perf_counter() - began

        row = {"x": np.ones((1, WIDE), np.float32)}
        quiet = [await ask() for _ in range(40)]
        load = asyncio.create_task(server.lifecycle.load("wide", "2", reload=True))
        loading = []
        while not load.done():
            loading.append(await ask())
        await load
        return quiet, loading

    quiet, loading = during(models, block)
    assert len(loading) >= 5
    assert median(loading) <= 2.5 * median(quiet)
    assert sorted(loading)[len(loading) * 9 // 10] <= 6 * median(quiet)


def test_promise_22_no_request_is_lost_while_versions_come_and_go(models: Path) -> None:
    async def block(server: Server) -> Any:
        stop = asyncio.Event()
        answered: Counter[str] = Counter()

        async def client() -> None:
            while not stop.is_set():
                model = server.traffic.route("small")
                await asyncio.sleep(0)  # a body is still being read
                await server.dataplane.infer(model, ROW)
                answered[model.manifest.version] += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await server.lifecycle.unload("small", "2")
        await server.lifecycle.load("small", "2")
        await server.lifecycle.load("small", "1", reload=True)
        await server.lifecycle.unload("small", "1")
        stop.set()
        await asyncio.gather(*clients)  # raises what any of them was answered
        queued = server.registry.get("small").batcher.queued_rows
        return answered, queued

    answered, queued = during(models, block)

    assert set(answered) == {"1", "2"}
    assert queued == 0


def test_promise_24_every_batch_size_is_warmed_up(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    run = OnnxRuntimeEngine.run

    def spy(self: Any, tensors: Any) -> Any:
        seen.add(len(tensors["x"]))
        return run(self, tensors)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", spy)

    async def block(server: Server) -> set[int]:
        at_start = set(seen)
        seen.clear()
        await server.lifecycle.load("small", "2", reload=True)
        return at_start

    at_start = during(models, block)

    assert {1, 2, 4, 8} <= at_start
    assert {1, 2, 4, 8} <= seen


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells memory there")
def test_promise_19_the_memory_of_an_unloaded_version_comes_back(models: Path) -> None:
    put(models, "wide", "1", width=WIDE)

    async def block(server: Server) -> Any:
        await server.lifecycle.unload("wide")
        await server.lifecycle._retirement.freed()
        before = resident()
        found = []
        for _ in range(2):
            await server.lifecycle.load("wide")
            loaded = resident()
            row = {"x": np.ones((1, WIDE), np.float32)}
            await server.dataplane.infer(server.traffic.route("wide"), row)
            await server.lifecycle.unload("wide")
            await server.lifecycle._retirement.freed()
            found.append((loaded - before, resident() - before))
        return found

    for loaded, left in during(models, block):
        assert loaded > 2 * 4 * WIDE * WIDE * 0.9
        assert left < loaded / 4


POISON = """
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine

class PoisonEngine(OnnxRuntimeEngine):
    def run(self, tensors):
        if (tensors["x"] == 13).any():
            raise ValueError("row is poison")
        return super().run(tensors)
"""


def test_promise_19_errors_hold_no_model_in_memory(
    iris_package: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that came through a future and its own frames would wait for the collector."""
    (tmp_path / "poison_engine.py").write_text(POISON)
    monkeypatch.syspath_prepend(tmp_path)
    package = iris_package(tmp_path / "iris", engine="poison_engine:PoisonEngine")
    sizing = {"iris": Sizing(threads=1, max_batch=4)}
    server = Server(Settings(models=str(package.path), state="", sizing=sizing), tmp_path)

    def ask(client: TestClient, count: int, value: float, timeout_ms: int = 9000) -> int:
        item = {"name": "x", "shape": [count, 4], "datatype": "FP32", "data": [value] * 4 * count}
        answer = client.post(
            "/v2/models/iris/infer",
            json={"inputs": [item]},
            headers={"x-request-timeout-ms": str(timeout_ms)},
        )
        status: int = answer.status_code
        return status

    with TestClient(build_app(server), base_url="http://localhost") as client:
        gc.collect()
        gc.disable()
        try:
            found = weakref.ref(server.registry.get("iris"))
            assert ask(client, 1, 5.0) == 200
            assert ask(client, 1, 13.0) == 500
            assert ask(client, 9, 13.0) == 500  # in several batches
            assert client.post("/v2/models/iris/infer", content=b"{").status_code == 400
            assert client.post("/v2/models/iris/infer", json={"inputs": []}).status_code == 400
            assert client.post("/v1/models/iris:predict", json={}).status_code == 400
            reload = client.post("/admin/v1/models/iris/reload", json={})
            assert reload.status_code == 200, reload.text
            end = time.monotonic() + 0.9  # before somebody calls the collector
            while found() is not None and time.monotonic() < end:
                time.sleep(0.01)
            assert found() is None
        finally:
            gc.enable()


def resident() -> int:
    """Bytes of memory that this process really has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
