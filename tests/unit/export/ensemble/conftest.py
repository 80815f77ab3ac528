"""Two classifiers of the same flowers, and ensembles of them written on the spot."""

import shutil

import numpy as np
import pytest

from mlserve_cli.export.export import export
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    Processing,
    TableInput,
)

COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
TABLE = TableInput(tensor="x", columns=tuple(Column(name) for name in COLUMNS))
PROCESSING = Processing(input=TABLE, output=ClassesOutput(tensor="scores"))

VOTE = """
outputs = ["scores"]
[[steps]]
package = "iris"
outputs = { scores = "first" }
[[steps]]
package = "other"
outputs = { scores = "second" }
[[steps]]
operation = "mean"
inputs = ["first", "second"]
output = "scores"
"""


@pytest.fixture(scope="session")
def _two(iris, tmp_path_factory):
    """Packages `iris` and `other` in one folder: they look at different columns."""
    from onnx import TensorProto, helper, numpy_helper, save
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("flowers")
    for name, columns in (("iris", (0, 1)), ("other", (2, 3))):
        fitted = LogisticRegression(max_iter=1000).fit(iris[0][:, columns], iris[1])
        weights = np.zeros((4, 3), np.float32)
        weights[list(columns)] = fitted.coef_.T
        graph = helper.make_graph(
            [
                helper.make_node("Gemm", ["x", "w", "b"], ["logits"]),
                helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
            ],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
            [
                numpy_helper.from_array(weights, "w"),
                numpy_helper.from_array(fitted.intercept_.astype(np.float32), "b"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        manifest = Manifest(
            name=name,
            version="1",
            variant="fp32",
            inputs=(),
            outputs=(),
            labels=("setosa", "versicolor", "virginica"),
            processing=PROCESSING,
            licence="MIT",
        )
        with create(folder / name) as draft:
            save(model, draft.serve / "model.onnx")
            finish(draft, manifest, [{"x": iris[0]}])
    return folder


@pytest.fixture
def flowers(_two, tmp_path):
    """A folder of the test's own with both packages."""
    shutil.copytree(_two, tmp_path / "flowers")
    return tmp_path / "flowers"


@pytest.fixture
def exported(flowers, tmp_path):
    """Export an ensemble of the text's, with files beside it."""

    def make(text=VOTE, target="vote", options=None, **files):
        for name, content in files.items():
            (flowers / name.replace("__", ".")).write_text(content, encoding="utf-8")
        (flowers / "ensemble.toml").write_text(text, encoding="utf-8")
        return export(str(flowers / "ensemble.toml"), tmp_path / target, **(options or {}))

    return make


@pytest.fixture
def repack(flowers, iris):
    """Seal the package `other` again with other fields of its manifest."""

    def make(**fields):
        package = Package.open(flowers / "other")
        values = {
            name: getattr(package.manifest, name)
            for name in ("name", "version", "variant", "labels", "processing", "licence")
        }
        model = package.model.read_bytes()
        shutil.rmtree(flowers / "other")
        with create(flowers / "other") as draft:
            (draft.serve / "model.onnx").write_bytes(model)
            manifest = Manifest(**(values | {"inputs": (), "outputs": ()} | fields))
            finish(draft, manifest, [{"x": iris[0]}])
        return Package.open(flowers / "other")

    return make
