"""Memory of static int8 beside the float model's own: `python benchmarks/optimize/memory.py PKG…`.

Each package is run once in a process of its own, on a batch of `--rows` rows of its calibration
data, and then quantized in another. The kernel's peak of resident memory is read and reset at each
stage of the work, so that one sees which of them needs what.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent

ROWS = 16


def peak_mb() -> float:
    """Of this process since the last `reset`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident size


class Stages(Silent):
    """Prints a stage's peak when the next begins."""

    def __init__(self) -> None:
        self.text = "start"

    def stage(self, text: str, total: int | None = None) -> None:
        print(f"  {self.text:48}{peak_mb():8.0f} MB", flush=True)
        self.text = text
        reset()


def rows_of(package: Package, count: int):
    import numpy as np

    with np.load(package.path / "serve" / "golden.npz") as file:
        found = {
            spec.name: np.concatenate([file[key] for key in file.files if key.endswith(spec.name)])
            for spec in package.manifest.inputs
        }
    return {name: np.resize(each, (count, *each.shape[1:])) for name, each in found.items()}


def run(package: Package, rows: int) -> None:
    from mlserve_cli.runtime import engines

    batch = rows_of(package, rows)
    reset()
    engine = engines.load("onnxruntime", package.model)
    print(f"  loaded{'':42}{peak_mb():8.0f} MB")
    reset()
    engine.run(batch)
    print(f"  run{'':45}{peak_mb():8.0f} MB")


def quantize(package: Package, rows: int) -> None:
    from mlserve_cli.package import step as steps
    from mlserve_cli.quantize import StaticStep

    batch = rows_of(package, rows)
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        step = StaticStep([batch] * 2)
        steps.run(step, package, Path(folder) / "int8", progress=stages)
    stages.stage("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packages", nargs="+", type=Path, metavar="PKG")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a batch")
    parser.add_argument("--child", choices=["run", "quantize"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    for path in given.packages:
        if given.child:
            package = Package.open(path)
            (run if given.child == "run" else quantize)(package, given.rows)
            continue
        print(f"{path}: {Package.open(path).size_bytes / 1e6:.0f} MB", flush=True)
        for child in ("run", "quantize"):
            print(f" {child}, batches of {given.rows}", flush=True)
            command = [sys.executable, __file__, path, "--rows", str(given.rows), "--child", child]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
