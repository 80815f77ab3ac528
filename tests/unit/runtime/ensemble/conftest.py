"""Ensembles of scripted members, put together by hand."""

import pytest

from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.engines.ensemble import EnsembleEngine
from mlserve_cli.runtime.ensemble.declaration import (
    Ensemble,
    FunctionStep,
    OperationStep,
    PackageStep,
)
from mlserve_cli.runtime.tensors import TensorSpec

IN = (TensorSpec("in", "FP64", ("batch", 2)),)


@pytest.fixture
def runs():
    """A step that runs a member: `runs("double", "in", "out")`."""

    def make(name, takes, makes, member=None):
        return PackageStep(
            name=name, member=member or name, inputs={"x": takes}, outputs={"y": makes}
        )

    return make


@pytest.fixture
def calls():
    """A step that calls a function of steps.py."""

    def make(function, takes, makes, name=None):
        return FunctionStep(
            name=name or function,
            file="steps.py",
            function=function,
            inputs={each: each for each in takes},
            outputs={each: each for each in makes},
        )

    return make


@pytest.fixture
def does():
    """A declared step."""

    def make(operation, takes, makes, name=None, **parameters):
        return OperationStep(
            name=name or operation,
            operation=operation,
            inputs=tuple(takes),
            output=makes,
            **parameters,
        )

    return make


@pytest.fixture
def opened(tmp_path):
    """Open an ensemble of these steps in `tmp_path`, which holds its members; closed at the end."""
    made = []

    def make(*steps, outputs=("out",), code="", inputs=IN, options=None):
        (tmp_path / "functions").mkdir(exist_ok=True)
        (tmp_path / "functions" / "steps.py").write_text(code)
        declared = Ensemble(
            inputs=inputs,
            outputs=tuple(
                each if isinstance(each, TensorSpec) else TensorSpec(each, "FP64", ("batch", 2))
                for each in outputs
            ),
            steps=steps,
        )
        path = tmp_path / "ensemble.json"
        path.write_bytes(declared.to_json())
        made.append(EnsembleEngine(path, options or EngineOptions()))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
