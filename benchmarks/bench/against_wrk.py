"""Do wrk and `mlserve bench` agree? `python benchmarks/bench/against_wrk.py [--seconds 3]`.

Both drive one `mlserve up` of a model of about 2 ms in turn, over as many connections as make about
half of its load, and their throughput and median latency are compared: medians of the rounds. The
server has one core, the clients another. Exits 1 where they differ by more than 5 %.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from mlserve_cli.bench.live.place import parse
from mlserve_cli.bench.live.wire import Request
from mlserve_cli.bench.load import Aim, ClosedLoop, Generator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serving"))

from tiny import MODELS, Served, drive, make, request, script, up

ROUNDS = 5
ALLOWED = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    seconds = parser.parse_args().seconds
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        package = make(folder, "slow", MODELS["slow"])
        body, headers = request(MODELS["slow"][:1], binary=True)
        lua = script(folder, body, headers)
        served = Served(up(package), mine)
        try:
            path = "/v2/models/slow/infer"
            aimed = Aim(
                host="127.0.0.1",
                port=parse(served.url).port,
                messages=[Request(body, headers, 1).http(parse(served.url), path)],
            )
            os.sched_setaffinity(0, theirs)
            with Generator(aimed) as generator:
                peak = generator.run(ClosedLoop(32), seconds=2).throughput
                half = {
                    users: generator.run(ClosedLoop(users), seconds=1).throughput / peak
                    for users in (2, 4, 6, 8, 12)
                }
                users = min(half, key=lambda one: abs(half[one] - 0.5))
                print(
                    f"32 connections: {peak:,.0f} requests/s; {users} make {half[users]:.0%} of it"
                )
                rounds = []
                for _ in range(ROUNDS):
                    other = drive(served, path, lua, users, seconds, theirs)
                    run = generator.run(ClosedLoop(users), seconds=seconds, warm_up_s=0.2)
                    found = (
                        other["rate"],
                        run.throughput,
                        other["p50"],
                        run.latency.percentile_ms(50),
                    )
                    rounds.append(found)
                    print(
                        "round: {:,.0f} and {:,.0f} requests/s, {:.3f} and {:.3f} ms".format(*found)
                    )
        finally:
            served.stop()
    wrk_rate, our_rate, wrk_p50, our_p50 = map(statistics.median, zip(*rounds, strict=True))
    print("                 wrk      mlserve bench   difference")
    differences = our_rate / wrk_rate - 1, our_p50 / wrk_p50 - 1
    print(f"requests/s  {wrk_rate:9,.0f} {our_rate:15,.0f} {differences[0]:+12.1%}")
    print(f"p50 ms      {wrk_p50:9.3f} {our_p50:15.3f} {differences[1]:+12.1%}")
    if max(map(abs, differences)) > ALLOWED:
        raise SystemExit(f"they differ by more than {ALLOWED:.0%}")


if __name__ == "__main__":
    main()
