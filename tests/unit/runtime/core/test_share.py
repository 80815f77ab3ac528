"""A busy model does not starve another, and a lone request never waits for another model."""

import asyncio
import heapq

import numpy as np
import pytest

from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.monitoring.metrics import ModelMetrics
from mlserve_cli.runtime.share import Alone, Cores


class Model:
    """One that always has more to do: takes every turn that it gets. Counts its core seconds."""

    def __init__(self, cores, workers, seconds, *, threads=1, weight=1.0):
        self.share = cores.share(threads=threads, weight=weight)
        self.share.wake = self.wake
        self.idle, self.seconds, self.threads = workers, seconds, threads
        self.busy = True
        self.spent = 0.0
        self.begun = []  # that the simulation has not seen yet

    def wake(self):
        return self.busy and self.idle > 0

    def begin(self, now):
        while self.busy and self.idle and self.share.take():
            self.idle -= 1
            self.begun.append(now + self.seconds)

    def end(self):
        self.idle += 1
        self.spent += self.seconds * self.threads
        self.share.give(self.seconds)


def simulate(cores, models, until):
    """Let batches begin and end in order; the largest number of cores that was in use."""
    now, most, running, count = 0.0, 0, [], 0
    while now < until:
        # Who had least is asked first, as the wake-ups come.
        for model in sorted(models, key=lambda each: each.share.spent_s):
            model.begin(now)
            for end in model.begun:
                count += 1
                heapq.heappush(running, (end, count, model))
            model.begun = []
        most = max(most, cores.used)
        now, _, model = heapq.heappop(running)
        model.end()
    return most


@pytest.mark.parametrize(("one", "other"), [((4, 0.01), (4, 0.01)), ((8, 0.05), (2, 0.01))])
def test_two_busy_models_get_the_cores_alike(one, other):
    cores = Cores(4)
    first, second = Model(cores, *one), Model(cores, *other)

    most = simulate(cores, [first, second], 60)

    assert first.spent == pytest.approx(second.spent, rel=0.1)
    assert most <= max(4, one[0]) + 1  # alone it uses all its workers; each may always run one


def test_weights_are_kept():
    cores = Cores(8)
    heavy, light = Model(cores, 8, 0.02, weight=3.0), Model(cores, 8, 0.02)

    simulate(cores, [heavy, light], 60)

    assert heavy.spent / light.spent == pytest.approx(3.0, rel=0.15)


def test_who_was_idle_has_no_claim_to_the_time_in_which_nobody_asked():
    cores = Cores(2)
    first, second = Model(cores, 2, 0.01), Model(cores, 2, 0.01)
    second.busy = False
    simulate(cores, [first], 60)
    second.busy = True
    before = first.spent

    while first.idle < 2:
        first.end()
    simulate(cores, [first, second], 10)

    assert first.spent - before > 0.3 * second.spent


def test_a_model_alone_runs_as_many_batches_as_it_has_workers():
    cores = Cores(2)
    busy, idle = Model(cores, 5, 0.01), Model(cores, 5, 0.01)
    idle.busy = False

    assert simulate(cores, [busy, idle], 1) == 5


def test_a_model_that_left_holds_nobody_back():
    cores = Cores(1)
    first, second = Model(cores, 2, 0.01), Model(cores, 2, 0.01)
    assert first.share.take()
    assert second.share.take()
    assert not second.share.take()
    second.share.leave()
    second.share.give(0.01)

    assert first.share.take()
    assert cores.used == 2


def test_a_model_without_others_has_all_there_is():
    alone = Alone()

    assert all(alone.take() for _ in range(100))


class Worker:
    """Holds each batch until the test finishes it."""

    def __init__(self):
        self.batches = []
        self.done = None

    def start(self, batch, done):
        self.batches.append(batch["x"][:, 0].tolist())
        self.done = done

    def finish(self):
        done, self.done = self.done, None
        done({"y": np.array(self.batches[-1])}, None)

    def close(self):
        pass


def batcher(share, count):
    workers = [Worker() for _ in range(count)]
    made = Batcher(
        workers, max_batch=1, max_queue_rows=99, observer=ModelMetrics("m", "1"), share=share
    )
    return made, workers


def submit(made, value):
    return asyncio.create_task(made.run({"x": np.array([[value]], np.float32)}, 1))


async def turns():
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_lone_request_does_not_wait_for_a_busy_model():
    async def main():
        cores = Cores(2)
        busy, busy_workers = batcher(cores.share(threads=1), 2)
        quiet, quiet_workers = batcher(cores.share(threads=1), 2)
        tasks = [submit(busy, value) for value in range(6)]
        await turns()
        assert [len(worker.batches) for worker in busy_workers] == [1, 1]

        lone = submit(quiet, 7)
        await turns()
        assert [7.0] in [batch for worker in quiet_workers for batch in worker.batches]
        busy_workers[0].finish()
        await turns()
        # The core that the lone request took is the busy model's again once it is done.
        assert sum(len(worker.batches) for worker in busy_workers) == 2

        next(worker for worker in quiet_workers if worker.done is not None).finish()
        await turns()
        assert sum(len(worker.batches) for worker in busy_workers) == 3
        assert (await lone)["y"].tolist() == [7]
        while not all(task.done() for task in tasks):
            next(worker for worker in busy_workers if worker.done is not None).finish()
            await turns()
        assert cores.used == 0

    asyncio.run(asyncio.wait_for(main(), 10))
