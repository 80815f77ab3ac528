"""A package that exists only in memory, and an engine that answers from a script."""

from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import BatchProof, Manifest
from mlserve_cli.runtime.tensors import TensorSpec


class ScriptedEngine:
    """Answers `answer(inputs)`; remembers the number of rows of every run and whether it closed."""

    def __init__(self, answer, *, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self._answer = answer
        self.sizes = []
        self.closed = False

    def run(self, tensors):
        self.sizes.append(len(next(iter(tensors.values()))))
        return self._answer(tensors)

    def close(self):
        self.closed = True


X = (TensorSpec("x", "FP32", ("batch", 2)),)
SCORES = (TensorSpec("scores", "FP32", ("batch", 2)),)


@pytest.fixture
def make_package():
    def make(**fields):
        settings = {
            "name": "model",
            "version": "1",
            "variant": "fp32",
            "inputs": X,
            "outputs": SCORES,
            "batch": BatchProof(invariant=True, sizes=(1, 2, 7)),
        }
        return Package(Path("nowhere/model"), Manifest(**(settings | fields)))

    return make


@pytest.fixture
def make_engine():
    def make(answer=None, *, inputs=X, outputs=SCORES):
        # By default the scores are the inputs: the larger of two columns decides.
        return ScriptedEngine(
            answer or (lambda tensors: {"scores": tensors["x"]}), inputs=inputs, outputs=outputs
        )

    return make


@pytest.fixture
def rows_of():
    def rows(classes):
        """Rows whose larger column is the given class."""
        return np.eye(2, dtype=np.float32)[np.asarray(classes)]

    return rows
