"""What a server process holds, sampled while it works: memory, descriptors, threads, tasks."""

import asyncio
import json
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """rss_mib: resident memory. The names of tasks and of Python's own threads are those that the
    server tells; where it tells none, they are empty.
    """

    rss_mib: float
    descriptors: int
    threads: int
    task_names: tuple = ()
    thread_names: tuple = ()

    @property
    def tasks(self):
        return len(self.task_names)


def sample(pid, told: Path | None = None):
    """told: the file that the server writes the names of its tasks and threads to, if it does."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = {line.partition(":")[0]: line.partition(":")[2] for line in status.splitlines()}
    names = json.loads(told.read_text()) if told is not None and told.exists() else {}
    return Sample(
        rss_mib=int(values["VmRSS"].split()[0]) / 1024,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(values["Threads"]),
        task_names=tuple(names.get("tasks", ())),
        thread_names=tuple(names.get("threads", ())),
    )


async def watch(chaos, pid, samples, *, every_s=0.5, told=None):
    """Add a sample again and again, until it is over."""
    while not chaos.over.is_set():
        samples.append(await asyncio.to_thread(sample, pid, told))
        await asyncio.sleep(every_s)


def floors(samples, name):
    """What a value comes down to in the second quarter and in the last; the first warms up.

    Loads and bursts lift it for a moment; what is never let go of lifts the floor.
    """
    quarter = len(samples) // 4
    parts = (samples[n * quarter : (n + 1) * quarter] for n in (1, 3))
    return tuple(
        statistics.quantiles((getattr(each, name) for each in part), n=10)[0] for part in parts
    )


def assert_memory_is_flat(samples):
    """What grows for ever grows between the quarters as well."""
    early, late = floors(samples, "rss_mib")
    assert late <= early * 1.05 + 8, f"{early:.0f} MiB became {late:.0f} MiB"
