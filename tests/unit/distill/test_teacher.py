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


def test_a_torch_module_teaches_as_it_is_and_as_a_file_gives_it(tmp_path, iris):
    import torch

    (tmp_path / "model.py").write_text(
        "import torch\n\n\ndef big():\n    torch.manual_seed(0)\n    return torch.nn.Linear(4, 3)\n"
    )
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    rows = {"input": iris[0]}
    for given in (module, str(tmp_path / "model.py:big")):
        asked = teacher.of(given, ("input",), Silent(), kind="fp32")
        with torch.no_grad():
            expected = module(torch.from_numpy(iris[0])).numpy()
        assert np.allclose(asked.answer(rows), expected, atol=1e-6)
        asked.close()


TABLE = """
import torch
from sklearn.datasets import load_wine
from torch import nn

LABELS = ["one", "two", "three"]
TRAINING = {"epochs": 40, "optimizer": "adamw", "learning_rate": 0.01, "precision": "fp32"}


def rows():
    rows, classes = load_wine(return_X_y=True)
    return torch.tensor((rows - rows.mean(0)) / rows.std(0)).float(), classes


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(13, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, input):
        return self.layers(input)


def model():
    return Net(64)


def student():
    return Net(16)


def sample():
    return rows()[0][:32]


def training():
    yield from rows()[0].split(30)


def evaluation():
    yield rows()
"""


@pytest.mark.parametrize("library", ["forest", "xgboost"])
def test_trees_teach_a_network(tmp_path, library):
    from mlserve_cli.distill import DistillStep
    from mlserve_cli.export.export import export
    from mlserve_cli.package import step

    trees = {
        "forest": "from sklearn.ensemble import RandomForestClassifier as Trees",
        "xgboost": "from xgboost import XGBClassifier as Trees",
    }[library]
    (tmp_path / "net.py").write_text(TABLE)
    table = TABLE[: TABLE.index("class Net")].replace("from torch import nn", trees)
    (tmp_path / "trees.py").write_text(
        f"{table}\ndef model():\n    rows_, classes = rows()\n"
        "    return Trees(n_estimators=30, n_jobs=1).fit(rows_.numpy(), classes)\n\n\n"
        "def sample():\n    return rows()[0][:32]\n"
    )
    forest = export(str(tmp_path / "trees.py"), tmp_path / "forest", progress=Silent())
    net = export(str(tmp_path / "net.py"), tmp_path / "net", progress=Silent())
    student = step.run(
        DistillStep(teacher=str(forest.path), temperature=2.0),
        net,
        tmp_path / "student",
        progress=Silent(),
    )
    from mlserve_cli.package.definition import Definition

    rows, classes = Definition.load(tmp_path / "net.py").function("rows")()
    engine = student.engine()
    (scores,) = engine.run({"input": rows.numpy()}).values()
    engine.close()
    assert (scores.argmax(1) == classes).mean() > 0.95


def test_a_quantized_package_teaches(mixed_package, tmp_path):
    from mlserve_cli.distill import DistillStep
    from mlserve_cli.package import step
    from mlserve_cli.quantize import StaticStep
    from mlserve_cli.training import source

    images, _ = source.load(mixed_package).definition.function("splits")()[0]
    quantize = StaticStep([{"image": images[:100]}], cache=None)
    small = step.run(quantize, mixed_package, tmp_path / "int8", progress=Silent())
    student = step.run(
        DistillStep(teacher=str(small.path), epochs=1),
        mixed_package,
        tmp_path / "x",
        progress=Silent(),
    )
    assert student.manifest.variant == "distilled-fp32"
    with pytest.raises(StepError, match="is quantized"):  # as a parent it has no float network
        DistillStep().requires(small)
