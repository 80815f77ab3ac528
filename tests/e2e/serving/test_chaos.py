"""Everything at once, against a real server: nobody gets a wrong answer, and nobody is lost.

Good clients ask all the time over HTTP and gRPC, while others leave, cancel, miss their deadlines,
send garbage, send too much or too slowly, poison batches and overload the queue, and while an
operator reloads models and shifts their traffic. In the end SIGTERM comes in the middle of it.
"""

import asyncio
import os
import random
import re
import signal
import time

import pytest

pytest.importorskip("grpc")
pytest.importorskip("tritonclient.grpc")

from tests.e2e.serving.chaos import over_grpc, over_http
from tests.e2e.serving.chaos.crowd import (
    HANG_S,
    LIMIT_MB,
    QUEUE_ROWS,
    Chaos,
    again_and_again,
    crowd,
)
from tests.e2e.serving.chaos.models import Expected, write_models
from tests.e2e.serving.chaos.operator import operator, reloading
from tests.e2e.serving.chaos.watching import assert_memory_is_flat, watch

CROWD = over_http.GOOD | over_http.BAD | over_grpc.GOOD | over_grpc.BAD | {operator: 1}

LAST = (
    over_http.good_tiny,
    over_http.good_slow,
    over_http.in_no_hurry,
    over_http.leaving,
    over_http.hanging,
    over_grpc.unary,
    over_grpc.streaming,
    over_grpc.cancelling,
)
"""Who is still there when SIGTERM comes."""


@pytest.fixture
def models(tmp_path):
    write_models(tmp_path / "models", tmp_path)
    return tmp_path / "models"


@pytest.fixture
def expected(models):
    answers = Expected(models)
    yield answers
    answers.close()


async def stopping(chaos, server):
    """SIGTERM in the middle. Clients go on until readiness says no, as a load balancer has them."""
    chaos.over.clear()
    async with asyncio.TaskGroup() as group:
        for behaviour in (*LAST, *LAST, reloading):
            group.create_task(again_and_again(chaos, behaviour))
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        while (await over_http.get(chaos, "/readyz")).status == 200:
            chaos.seen["asked whether it is ready"] += 1
        chaos.over.set()
        chaos.seen["in flight when it was not"] = chaos.in_flight


async def queues_are_empty(chaos):
    """Those who left are found out a moment later."""
    while True:
        text = (await over_http.get(chaos, "/metrics")).body.decode()
        rows = re.findall(r"^mlserve_queue_rows\{.*\} (\S+)$", text, re.MULTILINE)
        assert rows
        if set(rows) == {"0.0"}:
            return
        await asyncio.sleep(0.05)


SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))


@pytest.mark.parametrize("seconds", [6, pytest.param(SECONDS, marks=pytest.mark.slow)])
def test_nobody_gets_a_wrong_answer_and_nobody_is_lost(up, models, expected, seconds, monkeypatch):
    monkeypatch.setenv("MLSERVE_MAX_BODY_MB", str(LIMIT_MB))
    monkeypatch.setenv("MLSERVE_MAX_QUEUE_ROWS", str(QUEUE_ROWS))
    monkeypatch.setenv("MLSERVE_SHUTDOWN_GRACE_S", "1")
    server = up(models, "--grpc-port", "0")
    host, port = server.url.removeprefix("http://").split(":")
    grpc_address = server.line(r"gRPC: (\S+)").group(1)
    chaos = Chaos(host, int(port), grpc_address, expected, random.Random(seconds))
    samples = []

    async def story():
        watching = asyncio.create_task(watch(chaos, server.process.pid, samples))
        await crowd(chaos, CROWD, seconds)
        await watching
        async with asyncio.timeout(HANG_S):
            await queues_are_empty(chaos)
        assert (await asyncio.to_thread(server.get, "/readyz"))[0] == 200
        await stopping(chaos, server)

    began = time.monotonic()
    asyncio.run(asyncio.wait_for(story(), seconds + 2 * HANG_S))

    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output
    seen = chaos.seen
    print(f"{time.monotonic() - began:.1f} s: {dict(sorted(seen.items()))}")
    memory = [round(each.rss_mib) for each in samples]
    print(f"memory in MiB: {memory[:: max(1, len(memory) // 12)]}")
    if seconds >= 30:
        assert_memory_is_flat(samples)
    # Each kind of trouble was really there, and so were the good ones.
    missing = {kind for kind in SEEN if not seen[kind]}
    assert not missing, seen
    assert seen["burst: refused"] + seen["slow: refused"] > 0
    assert seen["in flight when it was not"] > 0


SEEN = {
    "tiny", "slow", "binary", "kept alive", "dribbling", "in time", "late", "poison", "burst",
    "left", "garbage", "oversize", "hanging", "operations", "tiny 1", "tiny 2",
    "grpc", "stream", "grpc: late", "grpc: in time", "grpc: cancelled", "grpc: left",
    "grpc: garbage", "grpc: oversize", "grpc: poison", "grpc: nobody", "stream: poison",
}  # fmt: skip
