"""What a generator's processes are told, and what they tell: MessagePack behind a length.

Times are nanoseconds of `time.perf_counter_ns`, which on Linux is one clock for all processes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from mlserve_cli.bench.load.histogram import BUCKETS, Histogram

_LENGTH = struct.Struct("<Q")


class Aim(msgspec.Struct, frozen=True, kw_only=True, tag="aim"):
    """Where requests go, and what they are.

    messages: sent in turn; for HTTP each is a whole request, head and body; for gRPC a serialized
    message. ca: certificates to trust; method and metadata are gRPC's.
    """

    kind: Literal["http", "grpc"] = "http"
    host: str
    port: int
    tls: bool = False
    ca: str | None = None
    messages: list[bytes]
    method: str = ""
    metadata: list[tuple[str, str]] = []


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """One run.

    begin_ns: when the warm-up begins; what is scheduled after it, for `seconds`, is counted.
    schedule_ns: int64 after `begin_ns`, for an open loop; None: `connections` users who each wait
    for their answer. connections: in an open loop those that are there from the start, and
    `most_connections` how many it may open.
    objective_ns: answers that take longer are counted as over it, and so are failures; after
    `give_up_over` of them no more is sent. samples: the most answers to hand back whole.
    """

    begin_ns: int
    warm_up_s: float
    seconds: float
    connections: int
    most_connections: int
    timeout_s: float
    schedule_ns: bytes | None = None
    first: int = 0
    objective_ns: int = 0
    give_up_over: int = 0
    samples: int = 32


class Tally(msgspec.Struct, kw_only=True, tag="tally"):
    """What became of the requests of one process that count.

    planned: as many the schedule held. sent: those that were sent or tried to be. answered: with
    success. completed: answers with success inside the window, whenever they were sent.
    statuses: answers that were none, by status. errors: what was not answered, by why.
    over: answers beyond the objective, and all failures. window_s: how long it counted.
    cpu_s: what this process computed in the window. waited_s: how long it was ready to run and
    had no core. late: sent more than a millisecond after their time. samples: message and answer.
    """

    planned: int = 0
    sent: int = 0
    answered: int = 0
    completed: int = 0
    statuses: dict[str, int] = {}
    errors: dict[str, int] = {}
    over: int = 0
    window_s: float = 0.0
    cpu_s: float = 0.0
    waited_s: float = 0.0
    late: int = 0
    late_max_ns: int = 0
    late_sum_ns: int = 0
    opened: int = 0
    waiting_most: int = 0
    gave_up: bool = False
    stopped: bool = False
    samples: list[tuple[int, bytes]] = []
    cells: bytes = b""  # of the histogram: stretch × BUCKETS + bucket, int64
    counts: bytes = b""
    slices: int = 0
    sum_ns: int = 0
    max_ns: int = 0

    def keep(self, latency: Histogram) -> None:
        """Put a histogram in."""
        cells = np.flatnonzero(latency.counts)
        self.cells, self.counts = cells.tobytes(), latency.counts.ravel()[cells].tobytes()
        self.slices = len(latency.counts)
        self.sum_ns, self.max_ns = latency.sum_ns, latency.max_ns

    def latency(self) -> Histogram:
        """Take it out again."""
        counts = np.zeros(self.slices * BUCKETS, np.int64)
        counts[np.frombuffer(self.cells, np.int64)] = np.frombuffer(self.counts, np.int64)
        return Histogram(counts.reshape(self.slices, BUCKETS), self.sum_ns, self.max_ns)


class Failure(msgspec.Struct, tag="failure"):
    """A process that could not do what it was told, and why."""

    reason: str


class Ready(msgspec.Struct, tag="ready"):
    """A process that has started, or has taken its aim."""


Message = Aim | Job | Tally | Failure | Ready

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def frame(message: Message) -> bytes:
    """A message as it is written into a pipe."""
    text = _encode(message)
    return _LENGTH.pack(len(text)) + text


def read(take: Callable[[int], bytes]) -> Message | None:
    """The next message, from what reads so many bytes; None where nothing comes any more."""
    head = take(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    text = take(length)
    if len(text) < length:
        return None
    return _decoder.decode(text)
