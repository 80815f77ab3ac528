"""How much of the machine other work takes while something is timed.

Turns that two models take are fair to both only where both get the cores that they ask for: beside
other work, a run on two threads waits for the thread that was interrupted, and the larger model
more often.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlserve_cli.runtime import hardware

BUSY = 0.1
"""A tenth of the CPUs: less is the usual noise of a machine, and of counting in hundredths."""


class OtherWork:
    """Begins to count when it is made.

    root: stands in for the machine's `/` in tests.
    """

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._before = self._read()

    def share(self) -> float:
        """Other work's share of this process's CPUs since then, 0 to 1; 0 where nobody says."""
        quota = hardware.detect().cpu_quota
        if quota and quota < (os.cpu_count() or 1):
            return 0.0  # the CPUs that are counted are not this container's own
        total, busy, own = (
            now - then for now, then in zip(self._read(), self._before, strict=True)
        )
        return min(1.0, max(0.0, busy - own) / total) if total > 0 else 0.0

    def _read(self) -> tuple[float, float, float]:
        """Ticks of these CPUs, those that were not idle (proc(5)), and this process's own."""
        try:
            lines = (self._root / "proc/stat").read_text(encoding="utf-8").splitlines()
        except OSError:
            return 0.0, 0.0, 0.0
        mine = {f"cpu{number}" for number in _cpus()}
        total = busy = 0
        for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
            if name in mine:
                ticks = [int(field) for field in fields[:8]]
                total += sum(ticks)
                busy += sum(ticks) - ticks[3] - ticks[4]
        spent = os.times()
        return total, busy, (spent.user + spent.system) * os.sysconf("SC_CLK_TCK")


def _cpus() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def sentence(share: float) -> str:
    """What it means for figures, where it is worth saying; else ""."""
    if share < BUSY:
        return ""
    return f"other work took {share:.0%} of the CPUs while the speed was measured"
