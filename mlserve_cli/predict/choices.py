"""What a person decides about a job, and what they are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a person decides about a job; None and 0 are decided here.

    piped: what goes through stdin and stdout, and what the parts of a folder are. part: the fewest
    rows of a part. strict: stop at the first row that is rejected.
    """

    batch: int | None = None
    part: int | None = None
    threads: int = 0
    piped: str | None = None
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    strict: bool = False
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job did.

    rows: answered in all. resumed: of those, before this run. rejects: where the reasons stand,
    None where every row was answered or the answers went to stdout. seconds: of this run.
    """

    rows: int
    rejected: int
    seconds: float
    parts: int
    resumed: int = 0
    rejects: str | None = None
    batch: int = 0
    threads: int = 0
    instances: int = 0

    @property
    def rows_per_s(self) -> float:
        """Of this run, from the first byte read to the last one written."""
        return (self.rows - self.resumed) / max(self.seconds, 1e-9)
