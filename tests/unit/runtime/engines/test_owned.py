import asyncio
from types import SimpleNamespace

import numpy as np

from mlserve_cli.runtime.batcher import Batcher
from mlserve_cli.runtime.engines.owned import Owned
from mlserve_cli.runtime.monitoring.metrics import ModelMetrics
from mlserve_cli.runtime.worker import InlineWorker


class Identity(SimpleNamespace):
    """Answers with its very input, as an engine must not."""

    inputs = outputs = ()

    def run(self, tensors):
        return {"y": tensors["x"][:]}

    def close(self):
        self.closed = True


def test_the_answer_of_an_engine_that_returns_its_input_outlives_the_next_batch():
    async def story():
        batcher = Batcher(
            [InlineWorker(Owned(Identity()))],
            max_batch=4, max_queue_rows=64, observer=ModelMetrics("m", "1"),
        )  # fmt: skip

        async def ask(value):
            return (await batcher.run({"x": np.full((1, 3), value, np.float32)}, 1))["y"]

        first = await asyncio.gather(ask(1.0), ask(2.0))
        await asyncio.gather(ask(8.0), ask(9.0))  # into the same buffer
        batcher.close()
        return [float(each[0, 0]) for each in first]

    assert asyncio.run(story()) == [1.0, 2.0]


def test_an_answer_in_memory_of_its_own_is_not_copied():
    held = np.ones((2, 3), np.float32)
    engine = Identity(run=lambda tensors: {"y": held})
    assert Owned(engine).run({"x": np.zeros((2, 3), np.float32)})["y"] is held


def test_what_is_no_answer_at_all_is_left_for_the_batcher_to_refuse():
    engine = Identity(run=lambda tensors: [1, 2])
    assert Owned(engine).run({"x": np.zeros((1, 1), np.float32)}) == [1, 2]


def test_closing_it_closes_the_engine():
    engine = Identity()
    Owned(engine).close()
    assert engine.closed
