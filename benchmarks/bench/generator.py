"""How much load one core can make: `python benchmarks/bench/generator.py [--seconds 3]`.

The server is the least that can answer (`serving/receiver.py`) on a core of its own, the generator
has another. What one process of it can send is what it sent over the share of its time that it
needed for that. wrk, which is written in C, does the same beside it where it is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mlserve_cli.bench.load import Aim, ClosedLoop, Generator, OpenLoop

SERVING = Path(__file__).resolve().parent.parent / "serving"
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1.0,2.0,3.0,4.0]}]}'
WANTED = 15_000


def message(port: int) -> bytes:
    """A tiny request, as wrk sends it."""
    return (
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    ) % (port, len(BODY), BODY)


def receiver(length: int, core: int) -> tuple[subprocess.Popen[str], int]:
    """The server, and its port."""
    process = subprocess.Popen(
        [sys.executable, str(SERVING / "receiver.py"), str(length)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    line = process.stderr.readline() if process.stderr else ""
    found = re.search(r":(\d+)$", line.strip())
    if found is None:
        raise SystemExit(f"the server did not start: {line}")
    return process, int(found[1])


def wrk(port: int, length: int, connections: int, seconds: int, core: int) -> float | None:
    """Requests a second of wrk; None where it is not installed."""
    if shutil.which("wrk") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder) / "request.lua"
        text = "".join(f"\\{byte:03d}" for byte in BODY)
        # As many bytes as our own request: the server counts them.
        padding = length - len(f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n") - len(BODY)
        padding -= len(f"Content-Length: {len(BODY)}\r\nX: \r\n\r\n")
        lua.write_text(
            f'wrk.method = "POST"\nwrk.body = "{text}"\nwrk.headers["X"] = "{"x" * padding}"\n'
        )
        done = subprocess.run(
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds}",
                "-s",
                lua,
                f"http://127.0.0.1:{port}",
            ],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 21), metavar="1-20")
    seconds = parser.parse_args().seconds
    cores = sorted(os.sched_getaffinity(0))
    print(
        f"server on core {cores[0]}, generator on core {cores[-1]}, load {os.getloadavg()[0]:.1f}"
    )
    with Probe() as port:
        length = len(message(port))
    server, port = receiver(length, cores[0])
    if len(message(port)) != length:
        raise SystemExit("the port has another number of digits; run it again")
    best = 0.0
    try:
        os.sched_setaffinity(0, {cores[-1]})
        aim = Aim(host="127.0.0.1", port=port, messages=[message(port)])
        print(
            "connections  requests/s  share of a core  could send   p50 ms   p99 ms   "
            "wrk: requests/s"
        )
        with Generator(aim) as generator:
            for connections in (1, 16, 64):
                run = generator.run(ClosedLoop(connections), seconds=seconds)
                best = max(best, run.throughput)
                other = wrk(port, length, connections, seconds, cores[-1])
                print(
                    f"{connections:11} {run.throughput:11,.0f} {run.busiest:16.0%} "
                    f"{run.throughput / run.busiest:11,.0f} {run.latency.percentile_ms(50):8.3f} "
                    f"{run.latency.percentile_ms(99):8.3f} "
                    + (f"{other:17,.0f}" if other else "   not installed")
                )
            run = generator.run(OpenLoop(rate=WANTED, poisson=True), seconds=seconds)
            print(
                f"open loop of {WANTED:,} requests a second: {run.answered / run.seconds:,.0f} "
                "answered, "
                f"{run.late / run.sent:.2%} sent over 1 ms late, {run.busiest:.0%} of a core, "
                f"p99 {run.latency.percentile_ms(99):.3f} ms"
            )
    finally:
        server.kill()
        server.communicate()
    if best < WANTED:
        raise SystemExit(f"one core made {best:,.0f} requests a second, and not {WANTED:,}")


class Probe:
    """A port that is free now: how many digits it has decides how long a request is."""

    def __enter__(self) -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        return


if __name__ == "__main__":
    main()
