"""Load on a live server: requests from processes of their own, and what became of each of them.

    with Generator(aim) as generator:
        run = generator.run(OpenLoop(rate=200, poisson=True), seconds=5)
        run.latency.percentile_ms(99), run.throughput, run.goodput(20)

`Aim` says where requests go and holds their bytes, made beforehand; `bench.live` makes one from a
URL. Nothing here knows a protocol's tensors.
"""

from mlserve_cli.bench.load.generator import Generator
from mlserve_cli.bench.load.job import Aim
from mlserve_cli.bench.load.run import ClosedLoop, Load, OpenLoop, Run

__all__ = ["Aim", "ClosedLoop", "Generator", "Load", "OpenLoop", "Run"]
