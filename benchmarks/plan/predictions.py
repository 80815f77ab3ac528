"""How near `mlserve plan` comes to what it then observes, for each package that is given.

    python benchmarks/plan/predictions.py packages/digits packages/tabular packages/sentences

Two objectives for each: a rate of a third of what the package answered with a full queue, with its
p99 at ten times a lone request's time; and as much as keeps that p99.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def planned(package: Path, *arguments: str) -> dict[str, Any]:
    """The document of one `mlserve plan`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlserve_cli", "plan", str(package), *arguments]
        command += ["-o", str(Path(folder) / "server.toml"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise SystemExit(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def main() -> None:
    """Print a line for each package and objective."""
    parser = argparse.ArgumentParser()
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--p99-ms", type=float, default=50.0)
    given = parser.parse_args()
    print("| package | objective | requests/s predicted, observed | p99 predicted, observed, ms |")
    print("|---|---|---|---|")
    limit = ["--p99-ms", f"{given.p99_ms:g}"]
    for package in given.packages:
        most = planned(package, "--max-throughput", *limit)
        show(package, "as much as keeps it", most)
        rate = f"{max(1.0, most['highest_rate_per_s'] / 3):.0f}"
        show(package, f"{rate}/s", planned(package, "--rate", rate, *limit))


def show(package: Path, objective: str, found: dict[str, Any]) -> None:
    """One line."""
    said, seen = found["predicted"], found["observed"] or {}
    off = [
        f"{said[key]:,.3g}, {seen[key]:,.3g} ({said[key] / seen[key] - 1:+.0%})"
        if seen.get(key) and said[key]
        else "not kept"
        for key in ("throughput_per_s", "p99_ms")
    ]
    print(f"| {package.name} | {objective} | {off[0]} | {off[1]} |", flush=True)


if __name__ == "__main__":
    main()
