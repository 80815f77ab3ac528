import asyncio
import threading
import time

import pytest

from mlserve_cli.runtime.errors import DeadlineExceeded
from mlserve_cli.runtime.threads import Threads


def scenario(coroutine):
    """Run an async test, with threads that are closed after it."""

    def run():
        async def main():
            threads = Threads(1)
            try:
                await asyncio.wait_for(coroutine(threads), 10)
            finally:
                threads.close()

        asyncio.run(main())

    run.__name__ = coroutine.__name__
    return run


class Gate:
    """Work that waits on its thread until it is let through."""

    def __init__(self):
        self.begun, self.through = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.through.wait(10)


async def behind_a_gate(threads):
    """A job that holds the only thread, and the gate that it waits at."""
    gate = Gate()
    task = asyncio.create_task(threads.run("gate", gate))
    assert await asyncio.to_thread(gate.begun.wait, 10)
    return gate, task


@scenario
async def test_work_is_done_on_a_thread_and_its_result_comes_back(threads):
    assert await threads.run("a", threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize(
    "raised",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(1),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_code_that_would_end_the_server_fails_alone_and_gives_its_thread_back(raised):
    def fail():
        raise raised

    async def story(threads):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=type(raised).__name__):
                await threads.run("a", fail)
        assert await threads.run("a", lambda: 1) == 1

    scenario(story)()


@scenario
async def test_what_work_raises_comes_back(threads):
    def fail():
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        await threads.run("a", fail)
    assert await threads.run("a", lambda: 1) == 1


@scenario
async def test_users_take_turns_however_much_one_of_them_wants(threads):
    gate, first = await behind_a_gate(threads)
    order = []
    tasks = [
        asyncio.create_task(threads.run(user, lambda user=user: order.append(user)))
        for user in ["busy"] * 6 + ["quiet"] * 2
    ]
    await asyncio.sleep(0)
    gate.through.set()
    await asyncio.gather(first, *tasks)

    assert order == ["busy", "quiet", "busy", "quiet", "busy", "busy", "busy", "busy"]


@scenario
async def test_who_was_cancelled_before_its_turn_is_left_out(threads):
    gate, first = await behind_a_gate(threads)
    done = []
    gone = asyncio.create_task(threads.run("a", lambda: done.append("gone")))
    stays = asyncio.create_task(threads.run("a", lambda: done.append("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    gate.through.set()
    await asyncio.gather(first, stays)

    assert done == ["stays"]
    assert gone.cancelled()


@scenario
async def test_work_past_its_deadline_is_not_begun(threads):
    done = []

    with pytest.raises(DeadlineExceeded):
        await threads.run("a", lambda: done.append(1), time.monotonic() - 1)
    assert done == []


@scenario
async def test_closing_ends_the_wait_of_those_in_the_queue_and_it_can_be_used_again(threads):
    gate, first = await behind_a_gate(threads)
    waiting = asyncio.create_task(threads.run("a", lambda: 1))
    await asyncio.sleep(0)

    threads.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await threads.run("a", lambda: 2) == 2
    gate.through.set()
    await first
