"""The batches of each epoch, drawn on a thread of their own while the network learns.

training() of a definition draws from the global random states, and so does dropout. They take
turns: the thread swaps its own states in for as long as it draws a batch, and the network holds
the turn for as long as it computes forwards. So what each of them draws depends on the seed
alone, never on which was faster, while backward passes and updates go on beside the drawing.

Every epoch begins from states that follow from the seed and its number. A training that is
resumed in the middle of an epoch draws that epoch again and leaves out what it has learned from.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing, suppress
from typing import Any, Protocol, runtime_checkable

from mlserve_cli.errors import StepError
from mlserve_cli.training import precision, randomness
from mlserve_cli.training.inputs import Batch

AHEAD = 2
"""Batches that wait; more would only hold memory, as one is drawn while one is learned from."""

LONG_COUNT_SECONDS = 20.0
"""Counting an epoch for so long says how far it is: a training() that never ends shows."""

DIGEST_VALUES = 65_536
"""Of each tensor of a batch: enough to see another order or another augmentation."""


@runtime_checkable
class Counted(Protocol):
    """An epoch that does something when it begins, which it leaves out when it is only counted."""

    def counting(self) -> Iterator[Batch]:
        """Its batches."""
        ...


class Loader:
    """Draws from `batches`, which gives one epoch a call.

    turn: who holds it may draw from the global random states.
    first: a digest of the first batch of the epoch that was drawn last; "" before any.
    say: is told once if training() draws from something that is not seeded.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        *,
        seed: int,
        device: str = "cpu",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.turn = threading.Lock()
        self.first = ""
        self._say = say
        self._batches = batches
        self._seed = seed
        self._device = device

    def count(self, see: Callable[[Batch], None] = lambda _: None) -> int:
        """The batches of an epoch: the schedule must know where it ends. All are drawn for it
        where it does not know its length.

        see: is shown every batch that is drawn. Raises `StepError` when there are none.
        """
        count = 0
        said = False
        began = time.monotonic()
        with randomness.apart():
            randomness.seed(self._seed, 0)
            once = self._batches()
            if isinstance(once, Sized):
                count = len(once)
            else:
                for batch in once.counting() if isinstance(once, Counted) else once:
                    self.first = self.first or digest(batch)
                    see(batch)
                    count += 1
                    if not said and time.monotonic() - began > LONG_COUNT_SECONDS:
                        said = True
                        self._say(
                            f"counting the batches of an epoch: {count:,} so far; "
                            "a training() that never ends cannot be trained with"
                        )
        if not count:
            raise StepError("training() yields no batches.", hint="it yields (inputs, targets)")
        return count

    def epoch(
        self, number: int, *, skip: int = 0, expected: str = ""
    ) -> closing[Generator[Batch, None, None]]:
        """The batches of an epoch but for the first `skip`, in a context that ends the thread.

        expected: the digest that `first` should have, where it is known.
        """
        return closing(self._epoch(number, skip, expected))

    def _epoch(self, number: int, skip: int, expected: str) -> Generator[Batch, None, None]:
        waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
        ended = threading.Event()

        def draw() -> None:
            try:
                for place, batch in enumerate(self._drawn(number)):
                    if not place:
                        self.first = digest(batch)
                        self._compare(expected)
                    if ended.is_set():
                        return
                    if place >= skip:
                        waiting.put(precision.ready(batch, self._device))
                waiting.put(None)
            except BaseException as error:  # whatever the user's code raises: the loop raises it
                waiting.put(error)

        thread = threading.Thread(target=draw, name="loader", daemon=True)
        thread.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            ended.set()
            while thread.is_alive():  # it may wait for room
                with suppress(queue.Empty):
                    waiting.get_nowait()
                thread.join(0.05)

    def _compare(self, expected: str) -> None:
        if expected not in ("", self.first):
            self._say(
                "training() gives other batches under the same seed: this training cannot be "
                "repeated, nor resumed exactly; draw from torch, numpy.random or random, whose "
                "states are seeded for it"
            )

    def _drawn(self, number: int) -> Iterator[Batch]:
        """An epoch from its own random states, whatever is drawn between its batches."""
        states: randomness.States | None = None
        iterator: Iterator[Batch] = iter(())
        while True:
            with self.turn, randomness.apart():
                if states is None:
                    randomness.seed(self._seed, number)
                    iterator = iter(self._batches())
                else:
                    randomness.restore(states)
                batch = next(iterator, None)
                states = randomness.capture()
            if batch is None:
                return
            yield batch


def digest(value: Any) -> str:
    """SHA-256 of a batch: of the first bytes of each of its tensors, which tell it apart."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if isinstance(value, (tuple, list)):
        for item in value:
            _feed(found, item)
    elif hasattr(value, "numpy"):
        flat = value.detach().cpu().reshape(-1)[:DIGEST_VALUES]
        found.update(f"{tuple(value.shape)} {value.dtype}".encode() + flat.numpy().tobytes())
    else:
        found.update(repr(value).encode())
