"""What everybody in the crowd shares: the address, what is right, and what has been seen."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

LIMIT_MB = 1
QUEUE_ROWS = 96
HANG_S = 60  # nothing here takes as long; what does is a hang


class Lost(Exception):
    """A request was sent whole, and no answer came."""


@dataclass
class Chaos:
    """The addresses, what the engines answer, and what has been seen so far.

    expected: name, version and inputs → outputs. in_flight: requests that wait for their answer.
    """

    host: str
    port: int
    grpc: str
    expected: object
    chance: random.Random
    seen: Counter = field(default_factory=Counter)
    in_flight: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def right(self, kind, name, version, tensors, outputs):
        """Count an answer; one that is wrong is an error."""
        want = self.expected(name, version, tensors)
        assert outputs.keys() == want.keys(), kind
        for output, got in outputs.items():
            np.testing.assert_allclose(got, want[output], rtol=1e-4, atol=1e-5, err_msg=kind)
        self.seen[kind] += 1
        self.seen[f"{name} {version}"] += 1

    def seed(self):
        """Rows are told apart by theirs."""
        return self.chance.randrange(1000)


async def again_and_again(chaos, behaviour, pause_s=0.0):
    """Behave so until it is over."""
    while not chaos.over.is_set():
        await behaviour(chaos)
        if pause_s:
            await asyncio.sleep(pause_s * 2 * chaos.chance.random())


async def crowd(chaos, behaviours, seconds, *, pause_s=0.0):
    """All of them at once for so many seconds.

    behaviours: how many clients of each kind. pause_s: between what one of them does, on average.
    """
    async with asyncio.TaskGroup() as group:
        for behaviour, count in behaviours.items():
            for _ in range(count):
                group.create_task(again_and_again(chaos, behaviour, pause_s))
        await asyncio.sleep(seconds)
        chaos.over.set()
