"""What LoadGen calls a system under test: it is given samples, and says when each is answered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Sample:
    """One that is to be answered. identity: LoadGen's, of this query. index: in the library."""

    identity: int
    index: int


class System(Protocol):
    """A package or a server. `issue` may answer before it returns, or later from a thread."""

    count: int
    answers: Answers

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take a query."""
        ...

    def close(self) -> None:
        """Stop; nothing is asked any more."""
        ...


class Answers:
    """Hands answers to LoadGen; with `whole` their bytes as well, which it writes into its log.

    Until `begin` they go nowhere: the warm-up is not LoadGen's.
    """

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.failures: Counter[str] = Counter()
        self._loadgen: Any = None
        self._warm_up = threading.Semaphore(0)

    def begin(self) -> None:
        """From here on LoadGen counts."""
        import mlperf_loadgen

        self.failures.clear()
        self._loadgen = mlperf_loadgen

    def wait(self) -> None:
        """For one answer of the warm-up."""
        self._warm_up.acquire()

    def give(self, identities: Sequence[int], bodies: Sequence[bytes] | None = None) -> None:
        """Answer samples. bodies: of each, where they are kept."""
        loadgen = self._loadgen
        if loadgen is None:
            self._warm_up.release(len(identities))
            return
        if bodies is None:
            loadgen.QuerySamplesComplete(
                [loadgen.QuerySampleResponse(identity, 0, 0) for identity in identities]
            )
            return
        import numpy as np

        # LoadGen copies what it is pointed to before it returns.
        kept = [np.frombuffer(body or b"\0", np.uint8) for body in bodies]
        loadgen.QuerySamplesComplete(
            [
                loadgen.QuerySampleResponse(identity, array.ctypes.data, array.nbytes)
                for identity, array in zip(identities, kept, strict=True)
            ]
        )

    def fail(self, identities: Sequence[int], why: str) -> None:
        """No answer is an answer as well, or LoadGen would wait for ever; it is counted."""
        self.failures[why] += len(identities)
        self.give(identities, [b""] * len(identities) if self.whole else None)
