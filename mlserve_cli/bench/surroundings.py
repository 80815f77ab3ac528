"""What makes figures doubtful that were measured here and now: quotas, neighbours, frequencies."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve_cli.bench.engine import doubts as before_hand

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

_STEAL = 0.01  # more of the time that the hypervisor gave to others is seen in p99
_FREQUENCY = 0.05
_THROTTLED = 0.01


class Surroundings:
    """Looks at the machine when it is made, and again when it is asked for doubts.

    root: stands in for the machine's `/` in tests.
    """

    def __init__(self, hardware: Hardware, *, root: Path = Path("/")) -> None:
        self._hardware, self._root = hardware, root
        self._load = os.getloadavg()[0]
        self._ticks = self._read_ticks()
        self._throttled = self._read_throttled()
        self._frequencies = self._read_frequencies()

    def doubts(self) -> list[str]:
        """What was found, a short phrase each; those that say least come last."""
        found = before_hand(self._hardware, self._load)
        periods, throttled = (
            now - then for now, then in zip(self._read_throttled(), self._throttled, strict=True)
        )
        if periods > 0 and throttled / periods > _THROTTLED:
            found.append(
                f"the quota stopped this container in {throttled / periods:.0%} of periods"
            )
        ticks = [now - then for now, then in zip(self._read_ticks(), self._ticks, strict=False)]
        stolen = ticks[7] / max(1, sum(ticks)) if len(ticks) > 7 else 0.0
        if stolen > _STEAL:
            found.append(f"the hypervisor gave {stolen:.0%} of the time to others")
        frequencies = self._read_frequencies()
        if frequencies and self._frequencies:
            low, high = (edge([*frequencies, *self._frequencies]) for edge in (min, max))
            if high > low * (1 + _FREQUENCY):
                found.append(f"the CPU's clock went from {low:,.0f} to {high:,.0f} MHz")
        if self._is_virtual():
            found.append("this is a virtual machine, whose neighbours are not seen")
        return found

    def _read_ticks(self) -> list[int]:
        """proc(5): user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
        line = self._text("proc/stat").partition("\n")[0].split()[1:9]
        return [int(field) for field in line if field.isdigit()]

    def _read_throttled(self) -> tuple[int, int]:
        """Periods of the CPU quota so far, and those in which it was used up (cgroup v2)."""
        facts = dict(
            line.split()[:2]
            for line in self._text("sys/fs/cgroup/cpu.stat").splitlines()
            if len(line.split()) == 2
        )
        return _number(facts.get("nr_periods")), _number(facts.get("nr_throttled"))

    def _read_frequencies(self) -> list[float]:
        """MHz of each CPU; empty where the kernel does not say."""
        lines: Iterable[str] = self._text("proc/cpuinfo").splitlines()
        values = (line.partition(":")[2] for line in lines if line.startswith("cpu MHz"))
        return [float(value) for value in values]

    def _is_virtual(self) -> bool:
        from mlserve_cli.runtime.hardware import cpu_flags

        return "hypervisor" in cpu_flags(self._root)

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
