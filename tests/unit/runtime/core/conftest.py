"""Engines with a script and a memory, and the specs of a small model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.tensors import Tensors, TensorSpec


class FakeEngine:
    """Doubles x (batch, 4) to scores (batch, 4); remembers what it was given."""

    inputs = (TensorSpec("x", "FP32", ("batch", 4)),)
    outputs = (TensorSpec("scores", "FP32", ("batch", 4)),)

    def __init__(self, model: Path, options: EngineOptions) -> None:
        self.options = options
        self.sizes: list[int] = []
        self.closed = False

    def run(self, tensors: Tensors) -> Tensors:
        self.sizes.append(len(tensors["x"]))
        return {"scores": tensors["x"] * 2}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_engine(monkeypatch) -> Callable[..., str]:
    """Register an engine class of the test's own; gives the name that a manifest carries.

    `answer(engine, tensors)` stands in for the doubling. `fake_engine.made` has every engine.
    """

    def register(answer: Callable[[FakeEngine, Tensors], Tensors] | None = None) -> str:
        class Engine(FakeEngine):
            def __init__(self, model: Path, options: EngineOptions) -> None:
                super().__init__(model, options)
                register.made.append(self)

            def run(self, tensors: Tensors) -> Tensors:
                doubled = super().run(tensors)
                return doubled if answer is None else answer(self, tensors)

        monkeypatch.setitem(sys.modules, "fake_engine", SimpleNamespace(Engine=Engine))
        return "fake_engine:Engine"

    register.made = []
    return register
