from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from mlserve_cli.runtime.errors import DeadlineExceeded, InferenceFailed, Overloaded, Stopping


def fail_once(model: Any) -> None:
    model.metrics.answered("oip-rest", 500, 0.1, InferenceFailed("the device is lost"))


def test_while_no_engine_fails_no_model_is_bothered(client: Any, load: Any, server: Any) -> None:
    load()
    for path in ("/readyz", "/v2/health/ready", "/v2/models/dbl/ready"):
        assert client.get(path).status_code == 200
    assert server.dataplane.given == []


def test_a_model_whose_engine_broke_is_not_ready_until_it_answers_again(
    client: Any, load: Any, server: Any
) -> None:
    fail_once(load())
    server.dataplane.error = InferenceFailed("the device is lost")
    for _ in range(2):
        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/health/ready").json()["ready"] is False
        assert client.get("/v2/models/dbl/ready").status_code == 400
        assert client.get("/ping").status_code == 500
    assert client.get("/livez").status_code == 200
    server.dataplane.error = None
    for _ in range(2):
        assert client.get("/readyz").status_code == 200
        assert client.get("/v2/models/dbl/ready").status_code == 200
        assert client.get("/ping").status_code == 200


def test_one_poisoned_request_does_not_make_a_model_unready(
    client: Any, load: Any, server: Any
) -> None:
    fail_once(load())
    assert client.get("/readyz").status_code == 200
    assert len(server.dataplane.given) == 1
    assert server.dataplane.given[0]["x"].tolist() == [[1, 2, 3]]  # its golden row
    assert client.get("/readyz").status_code == 200
    assert len(server.dataplane.given) == 1  # nothing failed since


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("full"), 200),
        (DeadlineExceeded("late"), 200),
        (Stopping("stopping"), 503),
        (RuntimeError("a bug of the engine"), 503),
    ],
)
def test_a_model_that_is_only_busy_stays_ready(
    client: Any, load: Any, server: Any, error: Exception, status: int
) -> None:
    fail_once(load())
    server.dataplane.error = error
    assert client.get("/readyz").status_code == status


def test_those_who_ask_at_the_same_time_share_one_run(load: Any, server: Any) -> None:
    model = load()
    run = server.dataplane.infer
    gate = asyncio.Event()

    async def gated(*given: Any, **options: Any) -> Any:
        await gate.wait()
        return await run(*given, **options)

    async def story() -> None:
        server.dataplane.infer = gated
        fail_once(model)
        asked = [asyncio.create_task(server.readiness.server()) for _ in range(20)]
        await asyncio.sleep(0)
        asked[0].cancel()  # who asked first may leave, and the others still get their answer
        gate.set()
        assert await asyncio.gather(*asked[1:]) == [True] * 19
        assert len(server.dataplane.given) == 1

    asyncio.run(story())


def test_a_failure_while_a_model_is_asked_is_not_missed(load: Any, server: Any) -> None:
    model = load()
    run = server.dataplane.infer
    gate = asyncio.Event()

    async def gated(*given: Any, **options: Any) -> Any:
        answer = await run(*given, **options)  # it still answered, and broke right after that
        await gate.wait()
        return answer

    async def story() -> None:
        server.dataplane.infer = gated
        fail_once(model)
        first = asyncio.create_task(server.readiness.server())
        await server.dataplane.asked.wait()
        fail_once(model)
        server.dataplane.error = InferenceFailed("the device is lost")
        second = asyncio.create_task(server.readiness.server())
        await asyncio.sleep(0)
        gate.set()
        assert await first
        assert not await second

    asyncio.run(story())


def test_a_model_that_is_loaded_anew_is_not_broken_any_more(
    client: Any, load: Any, server: Any
) -> None:
    model = load()
    fail_once(model)
    server.dataplane.error = InferenceFailed("the device is lost")
    assert client.get("/readyz").status_code == 503
    assert server.readiness.broken()

    server.registry.add(dataclasses.replace(model))  # in its place, and its failures are counted on

    assert not server.readiness.broken()  # also where nobody asks
    server.dataplane.error = None
    assert client.get("/readyz").status_code == 200
