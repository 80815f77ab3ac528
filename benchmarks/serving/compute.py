"""What is left of the engine's speed: `python benchmarks/serving/compute.py [--seconds 3]`.

A convolutional network of more than 2 ms a row, with binary tensors, behind a server whose engine
notes how long it ran. Rows divided by those seconds are what a bare loop would answer beside the
same server and the same clients; the share of the time in which it ran is what is left of that. The
bare loop alone, on an idle machine, stands beside. The server has one core and wrk another, where
there are two.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import convolutions
import numpy as np
import open_loop
import sized
from tallied import VARIABLE, Tally
from tiny import Served, drive, request, script

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.engines import EngineOptions

MAX_BATCH = 32
CONNECTIONS = (1, 64, 128)
LOAD = 0.8
SETTLE_S = 0.4  # after wrk began, and before it ends
PATH = "/v2/models/cnn/infer"


@dataclass(frozen=True, slots=True)
class Round:
    """wrk's view and the engine's of the same seconds."""

    rate: float  # rows a second, all told
    engine_ms: float  # of a batch
    batch: float  # rows
    beside: float  # rows a second of the engine alone, while it had company
    p50: float
    p99: float

    @property
    def idle_ms(self) -> float:
        """From the end of one batch to the beginning of the next."""
        return self.batch / self.rate * 1e3 - self.engine_ms


def bare(package: Package, batch: int, seconds: float, cores: set[int]) -> float:
    """Seconds a batch of a loop that only runs the engine, on those cores."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    engine = package.engine(EngineOptions(threads=1))
    inputs = {"x": np.zeros((batch, *convolutions.SHAPE), np.float32)}
    engine.run(inputs)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        engine.run(inputs)
        count += 1
    took = time.perf_counter() - began
    engine.close()
    os.sched_setaffinity(0, everywhere)
    return took / count


def watched(
    served: Served, tally: Tally, lua: Path, connections: int, seconds: int, cores: set[int]
) -> Round:
    """One round of wrk, with what the engine noted meanwhile, from one batch's end to another's.

    wrk counts neither the batch that is running when it ends, nor what it is left with.
    """
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(drive, served, PATH, lua, connections, seconds, cores)
        time.sleep(SETTLE_S)
        before = tally.read()
        time.sleep(seconds - 2 * SETTLE_S)
        ran_s, rows, batches, took_s = tally.read() - before
        found = driving.result()
    return Round(
        rows / took_s,
        ran_s / batches * 1e3,
        rows / batches,
        rows / ran_s,
        found["p50"],
        found["p99"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=3, choices=range(2, 31), metavar="2-30")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 31), metavar="1-30")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    load = os.getloadavg()[0]
    print(f"server on core {cores[0]}, clients on core {cores[-1]}, load before {load:.1f}")
    middle = statistics.median
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        package = convolutions.make(folder, "cnn", engine="tallied:TalliedEngine")
        body, headers = request(convolutions.SHAPE, binary=True)
        lua = script(folder, body, headers)
        path = folder / "tally"
        tally = Tally(path)
        here = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.getenv("PYTHONPATH")]))
        environ = {VARIABLE: str(path), "PYTHONPATH": here}
        alone: dict[int, list[float]] = {1: [], MAX_BATCH: []}
        rounds: dict[int, list[Round]] = {connections: [] for connections in CONNECTIONS}
        late: list[np.ndarray] = []
        served = Served(sized.command(package, threads=1, max_batch=MAX_BATCH), mine, **environ)
        try:
            drive(served, PATH, lua, CONNECTIONS[-1], 1, theirs)  # warms both up
            for number in range(options.rounds):
                for batch, kept in alone.items():
                    kept.append(bare(package, batch, 1.0, mine))
                for connections, found in rounds.items():
                    found.append(watched(served, tally, lua, connections, options.seconds, theirs))
                rate = LOAD * middle(each.rate for each in rounds[CONNECTIONS[-1]])
                times = open_loop.poisson(rate, 2 * options.seconds, seed=number)
                os.sched_setaffinity(0, theirs)
                late.append(open_loop.drive(served.url + PATH, body, headers, times))
                os.sched_setaffinity(0, cores)
        finally:
            served.stop()
    print(
        "\nconnections   rows/s  batch  engine ms  idle ms"
        "  beside the same load   alone   p50 ms   p99 ms"
    )
    for connections, found in rounds.items():
        rate, beside = middle(r.rate for r in found), middle(r.beside for r in found)
        share = middle(r.rate / r.beside for r in found)
        batch = 1 if connections == 1 else MAX_BATCH
        of_alone = middle(
            r.rate * once / batch for r, once in zip(found, alone[batch], strict=True)
        )
        print(
            f"{connections:11} {rate:8,.1f} {middle(r.batch for r in found):6.1f} "
            f"{middle(r.engine_ms for r in found):10.2f} {middle(r.idle_ms for r in found):8.2f} "
            f"{beside:13,.1f}/s {share:5.1%} "
            f"{of_alone:7.1%} {middle(r.p50 for r in found):8.2f} "
            f"{middle(r.p99 for r in found):8.2f}"
        )
    for batch, kept in alone.items():
        print(f"bare loop alone, batches of {batch}: {batch / middle(kept):,.1f} rows/s")
    more = middle(r.idle_ms for r in rounds[1])
    print(f"a lone request costs {more:.2f} ms more than the engine's own time")
    batch_ms = middle(alone[MAX_BATCH]) * 1e3
    p50, p99 = (middle(np.percentile(each, share) for each in late) for share in (50, 99))
    print(
        f"{LOAD:.0%} of the load, Poisson arrivals: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{p99 / batch_ms:.2f} times a batch of {MAX_BATCH} alone ({batch_ms:.1f} ms)"
    )


if __name__ == "__main__":
    main()
