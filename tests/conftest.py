"""Shared by all tests: small real packages, and a cache that is not the user's."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

# Beside other work on the machine an example takes what it takes; laws are not about time.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """Give every test a cache of its own, so that none sees what another left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def iris():
    """The real iris flowers: (150, 4) float32 and (150,) classes."""
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data.astype(np.float32), data.target


@pytest.fixture(scope="session")
def iris_onnx(iris, tmp_path_factory):
    """A linear classifier fitted on the flowers, as one Gemm and a Softmax: 4 numbers in, 3 out."""
    from sklearn.linear_model import LogisticRegression

    path = tmp_path_factory.mktemp("iris") / "iris.onnx"
    fitted = LogisticRegression(max_iter=1000).fit(*iris)
    write_linear(path, fitted.coef_.T, fitted.intercept_)
    return path


def write_linear(path: Path, weights, bias) -> None:
    """Write x · weights + bias and its softmax: x (batch, n) → scores (batch, classes)."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.asarray(weights, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "weights", "bias"], ["logits"], name="gemm"),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1, name="softmax"),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.asarray(bias, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    save(model, path)


@pytest.fixture
def iris_package(iris, iris_onnx, tmp_path):
    """Make a package of the linear classifier at a place of the test's choice."""
    import shutil

    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.manifest import Manifest, StepRecord

    def make(target: Path | None = None, **fields) -> Package:
        target = target or tmp_path / "iris"
        values = {
            "name": "iris",
            "version": "1",
            "variant": "fp32",
            "inputs": (),
            "outputs": (),
            "labels": ("setosa", "versicolor", "virginica"),
            "lineage": (StepRecord(step="export"),),
        }
        with create(target) as draft:
            shutil.copyfile(iris_onnx, draft.serve / "model.onnx")
            sealed = finish(draft, Manifest(**(values | fields)), [{"x": iris[0]}])
        return Package(target, sealed)

    return make


class Affine:
    """A scripted member: x (batch, 2) float64 → y, x times a number plus another one.

    Both numbers stand in its file. `sizes` has the rows of each run; a row that begins with
    13.5 makes a run fail, and one that begins with 99.5 is the client's mistake.
    """

    made: list["Affine"] = []  # noqa: RUF012 - every engine of the session, on purpose

    def __init__(self, model, options):
        from mlserve_cli.runtime.tensors import TensorSpec

        batch, scale, shift = model.read_text().split()
        shape = (int(batch) if batch.isdigit() else batch, 2)
        self.inputs = (TensorSpec("x", "FP64", shape),)
        self.outputs = (TensorSpec("y", "FP64", shape),)
        self.scale, self.shift = float(scale), float(shift)
        self.options = options
        self.sizes = []
        self.closed = False
        Affine.made.append(self)

    def run(self, tensors):
        from mlserve_cli.runtime.errors import InvalidRequest

        x = tensors["x"]
        self.sizes.append(len(x))
        if (x[:, 0] == 13.5).any():
            raise RuntimeError("thirteen and a half is unlucky")
        if (x[:, 0] == 99.5).any():
            raise InvalidRequest("99.5 stands in no row of the table", hint="0 to 98 do")
        return {"y": x * self.scale + self.shift}

    def close(self):
        self.closed = True


@pytest.fixture(scope="session")
def affine():
    """Make a member of an ensemble at a place: `affine(folder, scale, shift, batch="batch")`."""
    from mlserve_cli.runtime.manifest import BatchProof, Manifest
    from mlserve_cli.runtime.tensors import TensorSpec

    sys.modules["affine_engine"] = SimpleNamespace(Affine=Affine)

    def make(folder, scale, shift, *, batch="batch", proof=None, **fields):
        (folder / "serve").mkdir(parents=True)
        (folder / "serve" / "model.txt").write_text(f"{batch} {scale} {shift}")
        shape = (batch, 2)
        values = {
            "name": folder.name,
            "version": "1",
            "variant": "native",
            "engine": "affine_engine:Affine",
            "model": "model.txt",
            "inputs": (TensorSpec("x", "FP64", shape),),
            "outputs": (TensorSpec("y", "FP64", shape),),
            "batch": proof or BatchProof(invariant=True),
        }
        manifest = Manifest(**(values | fields)).sealed()
        (folder / "manifest.json").write_bytes(manifest.to_json())
        return manifest

    make.made = Affine.made
    return make
