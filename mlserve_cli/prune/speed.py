"""How fast a network that is not trained yet would be: exported, loaded, timed beside its parent.

What the weights say does not matter to dense kernels, so this is known before any training.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from mlserve_cli.errors import EngineError, first_line
from mlserve_cli.graph import successor
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import engines, golden
from mlserve_cli.runtime.engines import Engine, EngineOptions
from mlserve_cli.runtime.hardware import detect
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import torch

PAIRS = 16
"""Turns that both take, each first equally often; the faster ones of each side count."""

SECONDS = 1.0
"""For one comparison; a network so slow that it runs less often than thrice a turn takes longer."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one run each, at the lower quartile, and how many times faster that is."""

    parent_ms: float
    candidate_ms: float
    speedup: float


def compare(module: torch.nn.Module, parent: Package, *, batch: int = 1) -> Timing:
    """Time `module`, written as its parent was, beside it, on the physical cores.

    Raises `EngineError` when either cannot be run, `StepError` when it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="mlserve-prune-") as folder:
        path = Path(folder) / parent.manifest.model
        successor.write(module, parent, path)
        return beside(path, parent, batch=batch)


def beside(path: Path, parent: Package, *, batch: int = 1) -> Timing:
    """Time the model file at `path` beside the model of `parent`."""
    rows = golden.read(parent.serve).inputs
    feed = {
        name: np.ascontiguousarray(array.take(range(batch), axis=0, mode="wrap"))
        for name, array in rows.items()
    }
    options = EngineOptions(threads=detect().physical_cores)
    with_parent = engines.load(parent.manifest.engine, parent.model, options)
    try:
        candidate = engines.load(parent.manifest.engine, path, options)
        try:
            return _take_turns((with_parent, candidate), feed)
        except Exception as error:  # engines' errors share no base class
            raise EngineError(f"the model cannot be timed: {first_line(error)}.") from error
        finally:
            candidate.close()
    finally:
        with_parent.close()


def _take_turns(sides: tuple[Engine, Engine], feed: Tensors) -> Timing:
    times: tuple[list[float], list[float]] = ([], [])
    budget_ns = SECONDS * 1e9 / (2 * PAIRS)

    def visit(engine: Engine) -> float:
        runs: list[int] = []
        while len(runs) < 3 or (sum(runs) < budget_ns and len(runs) < 1000):
            begun = perf_counter_ns()
            engine.run(feed)
            runs.append(perf_counter_ns() - begun)
        return float(np.median(runs))

    for engine in sides:
        visit(engine)  # first runs pack weights; they are not counted
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[side].append(visit(sides[side]))
    # Whatever else the machine does only ever adds time, so the undisturbed turns are looked at.
    parent, candidate = (float(np.quantile(each, 0.25)) for each in times)
    return Timing(parent / 1e6, candidate / 1e6, parent / candidate)
