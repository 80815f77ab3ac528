"""What LoadGen's process is told, and what it tells."""

from __future__ import annotations

from typing import Literal

import msgspec

from mlserve_cli.bench.load.job import Aim
from mlserve_cli.bench.subject import Precision

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]

SCENARIOS: dict[Scenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
"""Our names → LoadGen's."""

SAMPLES_OF_A_STREAM = 8
"""Of a query of the MultiStream scenario (MLPerf Inference rules, section 3)."""


class Local(msgspec.Struct, frozen=True, kw_only=True, tag="local"):
    """A package in LoadGen's process. batch: the most rows that are answered together."""

    package: str
    engine: str
    precision: Precision
    threads: int
    batch: int


class Remote(msgspec.Struct, frozen=True, kw_only=True, tag="remote"):
    """A live server, asked with the messages of `aim`; each is a sample."""

    aim: Aim
    connections: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One test. folder: for LoadGen's logs. rate: queries a second of the Server scenario.

    latency_ms: its objective, for 99 % of them. seconds: that the test takes at least.
    """

    target: Local | Remote
    scenario: Scenario
    accuracy: bool
    folder: str
    seconds: float
    rate: float
    latency_ms: float
    least_queries: int
    seed: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. problem: why it could not be run. failures: samples without an answer,
    by why; LoadGen counts them as answered."""

    problem: str | None = None
    failures: dict[str, int] = {}
