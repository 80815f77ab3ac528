"""--engine: the same model for PyTorch's own engine, and any file for the user's own."""

import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError, EngineError, StepError
from mlserve_cli.export.export import export
from mlserve_cli.export.goal import Goal
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import TensorSpec

TORCH = """
import torch
from torch import nn
NAME = "tiny"
LABELS = ["a", "b", "c"]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)
def model():
    torch.manual_seed(0)
    return Net()
def sample():
    return torch.linspace(-1, 1, 40).reshape(10, 4)
"""

BAKED = """
import torch
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        return x.reshape(10, 2, 2).sum(1)
def model():
    return Net()
def sample():
    return torch.ones(10, 4)
"""


def test_a_torch_definition_becomes_a_program_that_verifies(exported):
    package = exported(TORCH, engine="torch")
    manifest = package.manifest

    assert (manifest.engine, manifest.model, manifest.variant) == (
        "torch",
        "model.pt2",
        "fp32-torch",
    )
    assert manifest.inputs == (TensorSpec("x", "FP32", ("batch", 4)),)
    assert manifest.batch.invariant
    assert manifest.lineage[0].parameters == {"source": "torch", "format": "pt2"}
    assert all(check.passed for check in verify(package.path))
    assert [line["batch"] for line in package.evidence("export")[0]["lines"]] == [1, 2, 7]


def test_both_engines_answer_the_same(exported):
    onnx = exported(TORCH)
    first = golden.read(onnx.serve)
    second = golden.read(exported(TORCH, engine="torch").serve)

    assert list(first.outputs) == list(second.outputs)
    for name, expected in first.outputs.items():
        np.testing.assert_allclose(second.outputs[name], expected, rtol=1e-5, atol=1e-6)


def test_a_program_is_the_same_bytes_for_the_same_model(exported):
    def weights(package):
        with zipfile.ZipFile(package.model) as file:
            return {name: file.read(name) for name in file.namelist() if "weight_" in name}

    first = weights(exported(TORCH, engine="torch"))
    assert first
    assert weights(exported(TORCH, engine="torch")) == first


def test_no_example_inputs_stay_in_a_package(exported):
    package = exported(TORCH, engine="torch")
    with zipfile.ZipFile(package.model) as file:
        sizes = [each.file_size for each in file.infolist() if "sample_inputs" in each.filename]
    assert sizes == [0]


def test_a_batch_size_that_was_baked_in_is_a_sentence(exported):
    with pytest.raises(StepError, match="the batch size 10 was baked into the model"):
        exported(BAKED, engine="torch")
    fixed = BAKED.replace("reshape(10, 2, 2)", "reshape(-1, 2, 2)")
    with pytest.raises(
        StepError, match=r"size 4 of dimension 1 of 'x' was baked|Constraints violated \(length\)"
    ):
        exported(fixed + "DYNAMIC = {'x': {1: 'length'}}\n", engine="torch")


def test_an_estimator_is_not_for_the_engine_torch(exported):
    pytest.importorskip("sklearn")
    text = """
from sklearn.linear_model import LogisticRegression
import numpy as np
def model():
    return LogisticRegression().fit(np.arange(8).reshape(4, 2), [0, 1, 0, 1])
def sample():
    return np.ones((2, 2), np.float32)
"""
    with pytest.raises(StepError, match="runs PyTorch models, and this is a scikit-learn estim"):
        exported(text, engine="torch")


def test_an_onnx_file_is_not_for_the_engine_torch(iris_onnx, tmp_path):
    with pytest.raises(StepError, match="'torch-aoti' runs PyTorch models, and this is an ONNX"):
        export(str(iris_onnx), tmp_path / "package", engine="torch-aoti")
    assert not (tmp_path / "package").exists()


def test_a_program_that_its_author_saved_is_a_source(exported, tmp_path):
    program = exported(TORCH, engine="torch").model
    package = export(str(program), tmp_path / "again", name="again", engine="torch")

    assert (package.manifest.engine, package.manifest.variant) == ("torch", "torch")
    assert package.manifest.sample == "synthetic"
    assert all(check.passed for check in verify(package.path))


def test_a_program_cannot_be_compiled_afterwards(exported, tmp_path):
    program = exported(TORCH, engine="torch").model
    with pytest.raises(StepError, match="only a definition can be compiled"):
        export(str(program), tmp_path / "again", engine="torch-aoti")


def test_pruning_writes_what_its_parent_was(exported, tmp_path):
    from mlserve_cli.graph import successor
    from mlserve_cli.training import source

    package = exported(TORCH, engine="torch")
    successor.write(source.load(package).module, package, tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as file:
        assert any(name.endswith("models/model.json") for name in file.namelist())


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("tensorrt", "cpu", "'tensorrt' is no engine"),
        ("torch", "cuda", "is not made for one device"),
        ("torch-aoti", "tpu", "'tpu' is no device"),
        ("no.such.module:Class", "cpu", "cannot be imported"),
    ],
)
def test_an_engine_that_is_not_there_is_told_before_the_export(name, device, message):
    with pytest.raises(EngineError, match=message):
        Goal.named(name, device)


class Table:
    """An engine of the user's own: the numbers of a text file, added to each row."""

    inputs = (TensorSpec("x", "FP32", ("batch", 3)),)
    outputs = (TensorSpec("sum", "FP32", ("batch", 3)),)

    def __init__(self, model, options):
        self.row = np.array(model.read_text().split(), np.float32)

    def run(self, tensors):
        return {"sum": tensors["x"] + self.row}

    def close(self):
        del self.row


@pytest.fixture
def own(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(Table=Table))
    file = tmp_path / "table.txt"
    file.write_text("1 2 3")
    return file


def test_any_file_becomes_a_package_for_the_users_own_engine(own, tmp_path):
    package = export(str(own), tmp_path / "package", engine="theirs:Table")

    assert (package.manifest.engine, package.manifest.model) == ("theirs:Table", "model.txt")
    assert package.manifest.batch.invariant
    assert all(check.passed for check in verify(package.path))


def test_without_its_engine_such_a_file_is_no_source(own, tmp_path):
    with pytest.raises(DefinitionError, match=r"cannot be exported: it is \.txt"):
        export(str(own), tmp_path / "package")


@pytest.mark.slow
def test_a_compiled_model_answers_as_its_program(exported):
    program = golden.read(exported(TORCH, engine="torch").serve)
    package = exported(TORCH, engine="torch-aoti")
    compiled = golden.read(package.serve)

    assert (package.manifest.engine, package.manifest.variant) == ("torch", "fp32-aoti")
    assert package.manifest.inputs == (TensorSpec("x", "FP32", ("batch", 4)),)
    assert package.manifest.lineage[0].parameters["device"] == "cpu"
    assert all(check.passed for check in verify(package.path))
    for name, expected in program.outputs.items():
        np.testing.assert_allclose(compiled.outputs[name], expected, rtol=1e-5, atol=1e-6)


def test_attention_is_fused_for_onnx_runtime_alone():
    assert Goal.named(None, fuse=True).fuse
    with pytest.raises(EngineError, match="'openvino' has no operator for fused attention"):
        Goal.named("openvino", fuse=True)
