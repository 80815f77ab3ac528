from types import SimpleNamespace

import pytest

from mlserve_cli.runtime.feedback.memory import Memory
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.tensors import TensorSpec

LABELS = ("setosa", "versicolor", "virginica")


@pytest.fixture
def manifest():
    """Make the manifest of a classifier of flowers, or of something else."""

    def make(*outputs, declared=None, version="1", labels=LABELS):
        specs = [TensorSpec(*each) for each in outputs or [("scores", "FP32", ("batch", 3))]]
        return Manifest(
            name="iris",
            version=version,
            variant="fp32",
            inputs=(),
            outputs=tuple(specs),
            labels=labels,
            processing=Processing(output=declared),
        )

    return make


@pytest.fixture
def asked():
    """Make a request, as a protocol knows it."""

    def make(name, alias="", *, named=False):
        return SimpleNamespace(request_id=name, alias=alias, named=named)

    return make


@pytest.fixture
def memory():
    return Memory(4, lambda name, version, named: "named" if named else "default")
