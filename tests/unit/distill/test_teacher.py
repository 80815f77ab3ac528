import numpy as np
import pytest

from mlserve_cli.distill import teacher
from mlserve_cli.distill.teacher import PackageTeacher
from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_row_that_comes_again_is_not_asked_again(iris, iris_package):
    rows = {"x": iris[0]}
    package = iris_package(batch=BatchProof(invariant=True))
    first = PackageTeacher(package, Silent())
    whole = first.answer(rows)
    shuffled = np.random.default_rng(0).permutation(len(iris[0]))
    assert np.array_equal(first.answer({"x": iris[0][shuffled]}), whole[shuffled])
    distinct = len(np.unique(iris[0], axis=0))
    assert distinct <= first.rows_asked <= len(iris[0])
    first.close()
    progress = Said()
    second = PackageTeacher(package, progress)
    assert np.array_equal(second.answer(rows), whole)
    second.close()
    assert second.rows_asked == 0
    assert "answered 0 rows; 150 of 150 were answered before" in progress.lines[0]


def test_rows_that_are_new_in_every_epoch_are_told_and_not_kept(iris, iris_package):
    progress = Said()
    asked = PackageTeacher(iris_package(), progress)
    generator = np.random.default_rng(0)
    for _ in range(3):
        asked.begin_epoch()
        for _ in range(3):
            noise = generator.normal(size=iris[0].shape).astype(np.float32)
            asked.answer({"x": iris[0] + noise})
    assert [line for line in progress.lines if "other rows each epoch" in line] == progress.lines
    asked.close()


def test_probabilities_become_logits_unless_they_are_asked_for(iris, iris_package):
    package = iris_package(processing=Processing(output=ClassesOutput(tensor="scores")))
    rows = {"x": iris[0]}
    engine = package.engine()
    expected = engine.run(rows)["scores"]
    engine.close()
    asked = PackageTeacher(package, Silent(), probabilities=True)
    assert np.allclose(asked.answer(rows), expected, atol=1e-6)
    asked.close()
    logits = PackageTeacher(package, Silent())
    grown = np.exp(logits.answer(rows))
    assert np.allclose(grown / grown.sum(1, keepdims=True), expected, atol=1e-5)
    logits.close()


def test_rows_that_do_not_fit_and_teachers_that_cannot_teach_are_refused(iris_package, tmp_path):
    package = iris_package()
    with pytest.raises(StepError, match="takes x, and the student image"):
        teacher.of(str(package.path), ("image",), Silent(), kind="fp32")
    (tmp_path / "model.py").write_text("def model():\n    return 'model.onnx'\n")
    with pytest.raises(DefinitionError, match=r"model\(\) of .* returns str"):
        teacher.of(str(tmp_path / "model.py"), ("x",), Silent(), kind="fp32")
    with pytest.raises(DefinitionError, match=r"no function big\(\)"):
        teacher.of(str(tmp_path / "model.py:big"), ("x",), Silent(), kind="fp32")
