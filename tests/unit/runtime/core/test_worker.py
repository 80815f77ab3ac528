import asyncio
import threading

import numpy as np
import pytest

from mlserve_cli.runtime.worker import InlineWorker, ThreadWorker

ROWS = {"x": np.ones((2, 3), np.float32)}


class Engine:
    """Answers with its input, or raises; remembers on which thread."""

    def __init__(self, error=None):
        self.error = error
        self.threads = []

    def run(self, tensors):
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return tensors


async def answer(worker, rows=ROWS):
    """(outputs, error) of one batch, and the thread that they came on."""
    done = asyncio.get_running_loop().create_future()
    worker.start(
        rows, lambda outputs, error: done.set_result((outputs, error, threading.current_thread()))
    )
    return await asyncio.wait_for(done, 10)


def test_an_inline_worker_answers_before_start_returns():
    found = []
    InlineWorker(Engine()).start(ROWS, lambda *answer: found.append(answer))

    assert found == [(ROWS, None)]


@pytest.mark.parametrize("error", [ValueError("bad row"), SystemExit(1), asyncio.CancelledError()])
def test_an_inline_worker_hands_on_what_was_raised(error):
    found = []
    InlineWorker(Engine(error)).start(ROWS, lambda *answer: found.append(answer))

    assert found == [(None, error)]


def test_a_thread_worker_runs_elsewhere_and_answers_on_the_loop():
    async def main():
        engine = Engine()
        worker = ThreadWorker(engine, name="m-1-0")
        outputs, error, thread = await answer(worker)
        worker.close()
        return engine, outputs, error, thread

    engine, outputs, error, thread = asyncio.run(main())

    assert (outputs, error) == (ROWS, None)
    assert thread is threading.main_thread()
    assert engine.threads[0].name == "m-1-0"


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1)])
def test_a_thread_survives_whatever_an_engine_raises(error):
    async def main():
        engine = Engine(error)
        worker = ThreadWorker(engine, name="worker")
        first = await answer(worker)
        engine.error = None
        second = await answer(worker)
        worker.close()
        engine.threads[0].join(10)
        return first, second, engine

    first, second, engine = asyncio.run(main())

    assert first[:2] == (None, error)
    assert second[:2] == (ROWS, None)
    assert len(set(engine.threads)) == 1
    assert not engine.threads[0].is_alive()


def test_a_thread_whose_loop_is_gone_ends_quietly():
    class Slow(Engine):
        def run(self, tensors):
            super().run(tensors)
            started.set()
            go.wait(10)
            return tensors

    started, go = threading.Event(), threading.Event()
    engine = Slow()

    async def main():
        ThreadWorker(engine, name="worker").start(ROWS, lambda *_: None)
        await asyncio.to_thread(started.wait, 10)

    asyncio.run(main())
    go.set()
    engine.threads[0].join(10)

    assert not engine.threads[0].is_alive()
