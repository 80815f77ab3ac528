"""Packages in memory, engines that take a scripted time, and the clock that they move."""

from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.golden import Golden
from mlserve_cli.runtime.manifest import BatchProof, Manifest
from mlserve_cli.runtime.tensors import TensorSpec

US = 1_000


class Clock:
    """A clock that stands still until an engine runs."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class TimedEngine:
    """Every run takes `cost(rows)` nanoseconds; remembers what was run, and whether it closed."""

    def __init__(self, name, clock, cost, journal):
        self.name, self._clock, self._cost, self._journal = name, clock, cost, journal
        self.closed = False
        self.fed = []

    def run(self, tensors):
        rows = len(tensors["x"])
        self._journal.append((self.name, rows))
        self.fed.append(tensors["x"][:, 0].tolist())
        self._clock.now += round(self._cost(rows))
        return {}

    def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal():
    """(package, rows) of every run, in order."""
    return []


@pytest.fixture
def workshop(clock, journal, monkeypatch):
    """Make packages whose engines take scripted times; `workshop.engines` holds those loaded."""
    costs, loading = {}, {}

    class Workshop:
        engines = {}  # noqa: RUF012 - one workshop a test

        def __call__(self, name, cost, *, load_ns=0, rows=5, folder="models", **fields):
            path = Path(folder) / name
            costs[path], loading[path] = cost, load_ns
            settings = {
                "name": "model",
                "version": "1",
                "variant": name,
                "inputs": (TensorSpec("x", "FP32", ("batch", 1)),),
                "outputs": (),
                "batch": BatchProof(invariant=True),
                "digest": f"sha256:{name}",
            }
            return Package(path, Manifest(**(settings | fields)))

    workshop = Workshop()

    def load(engine, model, options):
        path = model.parent.parent
        clock.now += loading[path]
        made = TimedEngine(path.name, clock, costs[path], journal)
        made.options = options
        workshop.engines[path.name] = made
        return made

    def golden(folder):
        values = np.arange(5, dtype=np.float32).reshape(5, 1)
        return Golden({"x": values + (100 if folder.parent.name == "other" else 0)}, {})

    monkeypatch.setattr("mlserve_cli.bench.subject.engines.load", load)
    monkeypatch.setattr("mlserve_cli.bench.subject.golden.read", golden)
    return workshop
