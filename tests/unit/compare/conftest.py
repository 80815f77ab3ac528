"""The linear classifier of the flowers, one that confuses two of them, and rows for both."""

import numpy as np
import pytest

from mlserve_cli.bench.compare import Ratio
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest, StepRecord
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing

CLASSES = Processing(output=ClassesOutput(tensor="scores"))


@pytest.fixture
def first(iris_package, tmp_path):
    return iris_package(tmp_path / "first", processing=CLASSES)


@pytest.fixture
def second(first, iris, tmp_path):
    """Made from the first by a step; the weights of versicolor and virginica are exchanged."""
    return _changed(first, iris, tmp_path / "second", [0, 2, 1], step="exchange")


@pytest.fixture
def same(first, iris, tmp_path):
    """Made from the first by a step that changed nothing."""
    return _changed(first, iris, tmp_path / "same", [0, 1, 2], step="keep")


def _changed(parent, iris, place, order, *, step):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(parent.model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)[..., order]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    with create(place) as draft:
        onnx.save(model, draft.serve / "model.onnx")
        manifest = Manifest(
            name="iris",
            version="2",
            variant="changed",
            inputs=(),
            outputs=(),
            labels=parent.manifest.labels,
            processing=CLASSES,
            lineage=(
                *parent.manifest.lineage,
                StepRecord(step=step, parent=parent.manifest.digest),
            ),
        )
        sealed = finish(draft, manifest, [{"x": iris[0]}])
    return Package(place, sealed)


@pytest.fixture
def flowers(iris, tmp_path):
    """All flowers with what they are."""
    path = tmp_path / "flowers.npz"
    np.savez(path, x=iris[0], target=iris[1])
    return str(path)


@pytest.fixture
def unlabelled(iris, tmp_path):
    path = tmp_path / "unlabelled.npz"
    np.savez(path, x=iris[0])
    return str(path)


@pytest.fixture
def timed(monkeypatch):
    """Answer the comparison of speed from a script: batch → ratio."""
    script = {1: 0.5, 8: 0.5}

    def compare(parent, child, *, batch_sizes, seconds, progress):
        return [
            Ratio(batch=batch, median=script[batch], low=script[batch], high=script[batch])
            for batch in batch_sizes
        ]

    monkeypatch.setattr("mlserve_cli.bench.compare.compare", compare)
    return script
