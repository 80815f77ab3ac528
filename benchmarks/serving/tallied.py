"""ONNX Runtime as an engine that notes how long it ran, where another process can read it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path

import numpy as np

from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.engines.onnxruntime import OnnxRuntimeEngine
from mlserve_cli.runtime.tensors import Tensors, rows

VARIABLE = "TALLY"
"""Names the file; without it the engine notes nothing."""

THREADS = 16
COLUMNS = 4


class Tally:
    """What each thread ran an engine for, and until when; one writer a line, so no lock."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(THREADS * COLUMNS * 8))
        self._sums = np.memmap(path, np.float64, "r+", shape=(THREADS, COLUMNS))
        self._own = threading.local()
        self._lines = itertools.count()

    def add(self, began: float, ended: float, count: int) -> None:
        """One batch of `count` rows, by `time.perf_counter`."""
        line = getattr(self._own, "line", None)
        if line is None:
            line = self._own.line = next(self._lines) % THREADS
        self._sums[line, :3] += (ended - began, count, 1)
        self._sums[line, 3] = ended

    def read(self) -> np.ndarray:
        """(4,) float64: seconds, rows, batches so far, and when the last of them ended."""
        return np.append(self._sums[:, :3].sum(axis=0), self._sums[:, 3].max())


class TalliedEngine(OnnxRuntimeEngine):
    """The engine of the comparison; what it adds to a run of milliseconds is microseconds."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        super().__init__(model, options)
        path = os.environ.get(VARIABLE)
        self._tally = Tally(Path(path)) if path else None

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch and note it."""
        if self._tally is None:
            return super().run(tensors)
        began = time.perf_counter()
        outputs = super().run(tensors)
        self._tally.add(began, time.perf_counter(), rows(tensors))
        return outputs
