"""A long ordinary day in a minute (SOAK_SECONDS makes it longer): nothing piles up.

Every kind of client comes and goes over HTTP and gRPC, models are loaded anew, the traffic is
shifted, the configuration is read again; and the memory, the file descriptors, the threads and the
tasks of the server stay what they were.
"""

import asyncio
import os
import random
import signal
import sys
import time

import pytest

pytest.importorskip("grpc")
pytest.importorskip("tritonclient.grpc")

from tests.e2e.serving.chaos import over_grpc, over_http
from tests.e2e.serving.chaos.crowd import LIMIT_MB, QUEUE_ROWS, Chaos, crowd
from tests.e2e.serving.chaos.models import Expected, write_models
from tests.e2e.serving.chaos.operator import operator
from tests.e2e.serving.chaos.watching import assert_memory_is_flat, floors, sample, watch

RUN = """
import asyncio, json, sys, threading
from pathlib import Path
from mlserve_cli.runtime import announcement, settings
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve

root = Path(sys.argv[1])
server = Server(settings.load(root / "server.toml"), root)

async def tell():
    while True:
        threads = sorted(thread.name for thread in threading.enumerate())
        tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
        told = {"tasks": tasks, "threads": threads}
        (root / "told.new").write_text(json.dumps(told))
        (root / "told.new").replace(root / "told")
        await asyncio.sleep(0.5)

def announce(url):
    server.telling = asyncio.get_running_loop().create_task(tell())
    print(url, "gRPC:", *announcement.grpc_addresses(server, url), flush=True)

serve(build_app(server), server, announce=announce)
"""

TOML = f"""
port = 0
grpc_port = 0
max_body_mb = {LIMIT_MB}
max_queue_rows = {QUEUE_ROWS}
shutdown_grace_s = 0.1
access_log = "off"
"""

CROWD = over_http.GOOD | over_http.BAD | over_grpc.GOOD | over_grpc.BAD | {operator: 1}
del CROWD[over_http.hanging]  # it stays, so it says nothing of what is left behind

STAY = ("_serve", "tell", "AioServer._server_main_loop", "AioServer._request_call")
"""The tasks of a server that nobody asks."""

POOLS = 6
"""Threads that the loop's executor (of cores + 4) and gRPC's own pool may add."""


EXECUTORS = ("asyncio_", "uvloop_")  # of the event loop, by which one it is


def own(found):
    """Names of threads that are of no pool."""
    return sorted(name for name in found.thread_names if not name.startswith(EXECUTORS))


SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))


@pytest.mark.slow
def test_memory_descriptors_threads_and_tasks_stay_flat(start, tmp_path):
    write_models(tmp_path / "models", tmp_path)
    (tmp_path / "server.toml").write_text(TOML)
    server = start(sys.executable, "-c", RUN, tmp_path)
    host, port = server.url.removeprefix("http://").split(":")
    grpc_address = server.line(r"gRPC: (\S+)").group(1)
    expected = Expected(tmp_path / "models")
    chaos = Chaos(host, int(port), grpc_address, expected, random.Random(5))
    pid, told = server.process.pid, tmp_path / "told"
    samples = []

    async def hanging_up():
        """The configuration is read again every few seconds, and a limit is another each time."""
        rows = QUEUE_ROWS
        while not chaos.over.is_set():
            await asyncio.sleep(3)
            rows += 1
            (tmp_path / "server.toml").write_text(TOML + f"shutdown_timeout_s = {rows}\n")
            server.process.send_signal(signal.SIGHUP)
            chaos.seen["hung up"] += 1

    async def quiet():
        """What is left once nobody is there, which may take a moment to be found out."""
        end = time.monotonic() + 30
        while True:
            left = await asyncio.to_thread(sample, pid, told)
            if sorted(left.task_names) == sorted(STAY):
                return left
            assert time.monotonic() < end, left
            await asyncio.sleep(0.5)

    async def story():
        # Once around first: threads and tasks that come with the first request are no leak.
        await crowd(chaos, CROWD, 3, pause_s=0.2)
        chaos.over.clear()
        nonlocal before
        before = await quiet()
        async with asyncio.TaskGroup() as group:
            group.create_task(hanging_up())
            group.create_task(watch(chaos, pid, samples, told=told))
            await crowd(chaos, CROWD, SECONDS, pause_s=0.1)
        return await quiet()

    before = None
    try:
        after = asyncio.run(asyncio.wait_for(story(), SECONDS + 120))
    finally:
        expected.close()
    assert server.stop() == 0, server.output
    assert "Traceback" not in server.output

    names = ("rss_mib", "descriptors", "threads", "tasks")
    print(f"before: {before}\nafter: {after}")
    print({name: floors(samples, name) for name in names})
    print(
        [
            (round(each.rss_mib), each.descriptors, each.threads, each.tasks)
            for each in samples[::40]
        ]
    )
    print(dict(sorted(chaos.seen.items())))
    assert chaos.seen["hung up"] > SECONDS / 6
    assert chaos.seen["operations"] > 0
    assert_memory_is_flat(samples)
    for name in ("descriptors", "threads", "tasks"):
        early, late = floors(samples, name)
        assert late <= early + 5, f"{name}: {early} became {late}"
    assert after.descriptors <= before.descriptors, (before, after)
    assert after.rss_mib <= before.rss_mib * 1.1 + 24, (before, after)
    # A pool makes a thread only when all of its others are busy, so it may have made one meanwhile;
    # its size is bounded. No other thread may be there that was not.
    assert own(after) == own(before), (before, after)
    assert after.threads <= before.threads + POOLS, (before, after)
