"""A server with a script and a memory, in place of the real data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from mlserve_cli.package import golden
from mlserve_cli.runtime import processing, tensors
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.dataplane import Hold
from mlserve_cli.runtime.errors import Overloaded
from mlserve_cli.runtime.feedback.memory import Memory
from mlserve_cli.runtime.feedback.pairs_file import PairsFile
from mlserve_cli.runtime.golden import Golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.monitoring.metrics import Metrics, ModelMetrics
from mlserve_cli.runtime.monitoring.record import Watchers
from mlserve_cli.runtime.readiness import Readiness
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.security import Guard
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.tensors import Tensors, TensorSpec
from mlserve_cli.runtime.timing import Timing
from mlserve_cli.runtime.traffic import Traffic

URL = "http://localhost"  # by any other name a server without keys is not administered


def spec(name: str, datatype: str = "FP32", *shape: int | str) -> TensorSpec:
    return TensorSpec(name, datatype, shape or ("batch", 3))


def manifest(name: str = "dbl", **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "name": name,
        "version": "1",
        "variant": "fp32",
        "inputs": (spec("x"),),
        "outputs": (spec("y"),),
    }
    return Manifest(**(facts | changes)).sealed()


@dataclass(eq=False)
class FakeModel:
    manifest: Manifest
    path: Path
    processor: Any
    metrics: ModelMetrics
    ready: bool = True


class FakeDataPlane:
    """Runs `function`; remembers what it was given. With `never` set it answers to no one."""

    def __init__(self) -> None:
        self.function: Callable[[Tensors], Tensors] = lambda given: {"y": given["x"] * 2}
        self.given: list[Tensors] = []
        self.deadlines: list[float | None] = []
        self.priorities: list[int] = []
        self.error: Exception | None = None
        self.never = False
        self.cancelled = 0
        self.bytes_in_flight = 0
        self.max_bytes = 1 << 30
        self.held: list[int] = []  # the bytes of each message that was counted
        self.still_held: list[int] = []  # how many of them were, when tensors came
        self.asked = asyncio.Event()

    async def infer(
        self,
        model: FakeModel,
        given: Tensors,
        *,
        deadline: float | None = None,
        priority: int = 0,
        timing: Timing | None = None,
        asked: Any = None,
    ) -> Tensors:
        self.given.append(given)
        self.still_held.append(self.bytes_in_flight)
        self.deadlines.append(deadline)
        self.priorities.append(priority)
        self.asked.set()
        if self.never:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        tensors.check(model.manifest.inputs, given, model=model.manifest.name)
        return self.function(given)

    def receive(self) -> Hold:
        return Hold(self, 0)  # type: ignore[arg-type]

    def check(self, own: int) -> None:
        if self.bytes_in_flight > max(own, self.max_bytes):
            raise Overloaded("max_inflight_mb allows no more", retry_after_s=1)

    def hold(self, size: int) -> Hold:
        if self.bytes_in_flight + size > self.max_bytes:
            raise Overloaded("max_inflight_mb allows no more", retry_after_s=1)
        self.held.append(size)
        self.bytes_in_flight += size
        return Hold(self, size)  # type: ignore[arg-type]

    async def predict(
        self,
        model: FakeModel,
        body: bytes,
        content_type: str,
        *,
        deadline: float | None = None,
        priority: int = 0,
        timing: Timing | None = None,
        asked: Any = None,
    ) -> list[Any]:
        rows = model.processor.rows(body, content_type)
        outputs = await self.infer(model, model.processor.tensors(rows), deadline=deadline)
        answers: list[Any] = model.processor.answers(outputs)
        return answers


@dataclass
class FakeServer:
    registry: Registry = field(default_factory=Registry)
    dataplane: FakeDataPlane = field(default_factory=FakeDataPlane)
    settings: Settings = field(default_factory=lambda: Settings(max_body_mb=1))
    metrics: Metrics = field(default_factory=Metrics)
    watchers: Watchers = field(default_factory=Watchers)
    accepting: bool = True
    is_ready: bool = True
    memory: Memory | None = None
    pairs: PairsFile | None = None

    def __post_init__(self) -> None:
        self.guard = Guard(self.settings, Path())
        self.traffic = Traffic(self.registry)
        self.readiness = Readiness(self)  # type: ignore[arg-type]
        self.rpc: Any = None
        self.watchers.failures(lambda record: self.changed())

    def changed(self) -> None:
        if self.rpc is not None:
            self.rpc.changed()

    def ready(self) -> bool:
        return self.is_ready

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        yield


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def load(server: FakeServer, tmp_path: Path) -> Callable[..., FakeModel]:
    """Put a model into the server: a manifest, and golden inputs for its example."""

    def put(rows: Tensors | None = None, **changes: Any) -> FakeModel:
        made = manifest(**changes)
        path = tmp_path / f"{made.name}-{made.version}"
        (path / "serve").mkdir(parents=True)
        if rows is None:
            rows = {"x": np.array([[1, 2, 3]], dtype=np.float32)}
        golden.write(path / "serve", Golden(rows, rows))
        metrics = server.metrics.model(made.name, made.version)
        model = FakeModel(made, path, processing.build(made, path / "serve"), metrics)
        server.registry.add(model)  # type: ignore[arg-type]
        return model

    return put


@pytest.fixture
def client(server: FakeServer) -> Iterator[TestClient]:
    """An HTTP client of the application; unexpected errors are answered, not raised."""
    with TestClient(build_app(server), URL, raise_server_exceptions=False) as found:  # type: ignore[arg-type]
        yield found
