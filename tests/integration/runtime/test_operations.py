"""Operations and the life of versions together, in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.journal import Caller
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

CI = Caller("ci")


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """Run a story against a server in this process; another one on the same folder is a restart."""

    def run(story: Callable[[Server], Awaitable[Any]], **options: Any) -> Any:
        async def main() -> Any:
            settings = Settings(models=".", sizing={"iris": Sizing(inline=True)}, **options)
            server = Server(settings, tmp_path / "models")
            async with server.lifespan():
                return await story(server)

        return asyncio.run(main())

    return run


@pytest.fixture
def versions(iris_package: Any, tmp_path: Path) -> Callable[..., None]:
    def make(*names: str) -> None:
        for name in names:
            iris_package(tmp_path / "models" / "iris" / name, version=name)

    return make


def shares(server: Server, count: int = 100) -> Counter[str]:
    return Counter(server.traffic.route("iris").manifest.version for _ in range(count))


def test_a_policy_of_one_version_does_not_unload_what_a_rule_names(
    serve: Any, versions: Any
) -> None:
    versions("1")

    async def story(server: Server) -> None:
        versions("2")
        await server.operations.load("iris", "2", hold=True, caller=CI)
        await server.operations.canary("iris", "2", 10, caller=CI)
        await server.operations.rescan(caller=CI)
        assert server.registry.versions("iris") == ["1", "2"]
        found = shares(server)
        assert abs(found["1"] - 90) <= 2

        await server.operations.promote("iris", caller=CI)
        await server.operations.rescan(caller=CI)
        assert server.registry.versions("iris") == ["2"]  # nobody needs the old one any more
        assert shares(server) == {"2": 100}

        await server.operations.rollback("iris", caller=CI)
        assert shares(server) == {"1": 100}

    serve(story, versions={"*": 1})


def test_after_a_restart_the_rule_holds_before_the_server_is_ready(
    serve: Any, versions: Any
) -> None:
    versions("1", "2")

    async def before(server: Server) -> None:
        await server.operations.promote("iris", "1", caller=CI)
        await server.operations.unload("iris", "2", caller=CI)

    async def after(server: Server) -> tuple[list[str], Counter[str]]:
        assert server.ready()
        return server.registry.versions("iris"), shares(server, 10)

    serve(before)

    assert serve(after) == (["1"], {"1": 10})


def test_a_number_of_instances_holds_after_a_restart(serve: Any, versions: Any) -> None:
    versions("1")

    async def before(server: Server) -> None:
        await server.operations.resize("iris", None, 2, caller=CI)
        assert server.registry.get("iris").batcher.workers == 2

    async def after(server: Server) -> int:
        return server.registry.get("iris").batcher.workers

    serve(before)

    assert serve(after) == 2


def test_shifting_traffic_while_requests_run_loses_none_of_them(
    serve: Any, versions: Any, iris: Any
) -> None:
    versions("1", "2")
    rows = iris[0][:3]

    async def story(server: Server) -> int:
        answered = 0
        over = False

        async def client() -> None:
            nonlocal answered
            while not over:
                model = server.traffic.route("iris")
                outputs = await server.dataplane.infer(model, {"x": rows})
                assert np.asarray(outputs["scores"]).shape == (3, 3)
                answered += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(client())
            for percent in (5, 50, 95, 0):
                await server.operations.canary("iris", "2", percent, caller=CI)
                await server.operations.load("iris", "2", reload=True, caller=CI)
            await server.operations.promote("iris", "2", caller=CI)
            await server.operations.unload("iris", "1", caller=CI)
            over = True
        return answered

    assert serve(story) > 100


def test_an_operation_that_the_end_of_the_server_meets_is_recorded_as_failed(
    serve: Any, versions: Any, tmp_path: Path
) -> None:
    versions("1")

    async def story(server: Server) -> Any:
        task = asyncio.create_task(server.operations.load("iris", "1", reload=True, caller=CI))
        await asyncio.sleep(0)
        return task

    async def ended(server: Server) -> None:
        server.lifecycle.abandon()
        task = await story(server)
        with pytest.raises(Exception, match="shutting down"):
            await task

    serve(ended)

    lines = (tmp_path / "models" / ".mlserve" / "audit.jsonl").read_text().splitlines()
    assert "shutting down" in json.loads(lines[-1])["outcome"]
