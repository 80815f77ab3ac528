"""Objects of a module, programs, weights on disk, TensorFlow: what becomes a package, what not."""

import json
import os
import stat
import sys
import textwrap

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError, EngineError, StepError
from mlserve_cli.export.export import export
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime import golden

NET = """
import torch
from torch import nn
LABELS = ["a", "b", "c"]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)
def model():
    return Net()
def make():
    torch.manual_seed(0)
    return Net()
def sample():
    return torch.linspace(-1, 1, 40).reshape(10, 4)
"""


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Write a package of the user's, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text, name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "nets.py").write_text(text)
        return f"{name}.nets"

    return write


@pytest.mark.parametrize("attribute", ["make", "ready", "Net"])
def test_a_module_a_class_and_a_factory_become_packages(beside, tmp_path, attribute):
    name = beside(NET + "ready = make()\n", f"theirs_{attribute.lower()}")

    package = export(f"{name}:{attribute}", tmp_path / "package")

    assert package.manifest.name == attribute
    assert package.manifest.labels == ("a", "b", "c")
    assert package.manifest.sample == "real"
    assert not package.source.exists()
    assert all(check.passed for check in verify(package.path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_package.at_all:model", "there is no module 'no_such_package'"),
        ("json:nothing_there", "'json:nothing_there' cannot be found"),
    ],
)
def test_an_object_that_is_not_there_is_named(tmp_path, source, message):
    with pytest.raises(DefinitionError, match=message):
        export(source, tmp_path / "package")


def test_a_module_that_raises_is_a_sentence(beside, tmp_path):
    name = beside("raise ValueError('no disk')\n", "theirs_raising")
    with pytest.raises(DefinitionError, match="raised ValueError: no disk"):
        export(f"{name}:model", tmp_path / "package")


def saved_program(path, *, dynamic=True):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    rows = torch.randn(9, 4)
    shapes = ({0: torch.export.Dim("rows", min=1, max=1024)},) if dynamic else None
    program = torch.export.export(network.eval(), (rows,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return network, rows


def test_a_program_becomes_onnx_and_answers_as_before(tmp_path):
    network, rows = saved_program(tmp_path / "net.pt2")

    package = export(str(tmp_path / "net.pt2"), tmp_path / "package")

    assert (package.manifest.engine, package.manifest.model) == ("onnxruntime", "model.onnx")
    assert package.manifest.inputs[0].shape == ("batch", 4)
    assert package.manifest.batch.invariant
    facts = package.evidence("export")[0]
    assert facts["relative_error"] < 1e-5
    assert [line["batch"] for line in facts["lines"]] == [1, 2, 7]
    proof = golden.read(package.serve)
    np.testing.assert_array_equal(next(iter(proof.inputs.values())), rows.numpy())
    np.testing.assert_allclose(
        next(iter(proof.outputs.values())), network(rows).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_program_that_would_run_code_is_not_read(tmp_path):
    (tmp_path / "bad.pt2").write_bytes(b"PK garbage")
    with pytest.raises(EngineError):
        export(str(tmp_path / "bad.pt2"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def state(**changed):
    import torch

    torch.manual_seed(7)
    layer = torch.nn.Linear(4, 3)
    return {"layer.weight": layer.weight.detach(), "layer.bias": layer.bias.detach()} | changed


@pytest.mark.parametrize("form", ["safetensors", "pt", "checkpoint", "parallel"])
def test_weights_on_disk_fill_the_network_of_a_definition(define, tmp_path, form):
    import torch
    from safetensors.torch import save_file

    weights = state()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(weights, file)
    elif form == "pt":
        torch.save(weights, file)
    elif form == "checkpoint":
        torch.save({"state_dict": weights, "epoch": 3}, file)
    else:
        torch.save({f"module.{key}": value for key, value in weights.items()}, file)

    package = export(str(define(NET)), tmp_path / "package", weights=file)

    proof = golden.read(package.serve)
    expected = proof.inputs["x"] @ weights["layer.weight"].numpy().T + weights["layer.bias"].numpy()
    np.testing.assert_allclose(proof.outputs["output"], expected, rtol=1e-5, atol=1e-6)
    assert (package.source / "weights.safetensors").is_file()


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"layer.weight": state()["layer.weight"]}, r"1 are missing \(layer\.bias\)"),
        (lambda: state(extra=state()["layer.bias"]), r"1 are of no use \(extra\)"),
        (lambda: state(**{"layer.bias": state()["layer.weight"]}), "do not fit Net: .*size mismat"),
        (lambda: {"layer.weight": Evil()}, "hold more than tensors"),
        (lambda: [1, 2], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_in_them_runs(
    define, tmp_path, monkeypatch, content, message
):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save(content(), tmp_path / "w.pt")

    with pytest.raises(DefinitionError, match=message):
        export(str(define(NET)), tmp_path / "package", weights=tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "package").exists()


def test_weights_are_for_definitions_alone(iris_onnx, tmp_path):
    with pytest.raises(DefinitionError, match="are for the network of a definition"):
        export(str(iris_onnx), tmp_path / "package", weights=tmp_path / "w.pt")


@pytest.fixture
def saved_model(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


def fake_python(path, body):
    """An executable that stands in for a Python with TensorFlow; it notes how it was called."""
    path.write_text(
        f"#!{sys.executable}\nimport json, shutil, sys\n"
        f"open({str(path.with_suffix('.calls'))!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        + textwrap.dedent(body)
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_saved_model_is_converted_and_compared_by_the_other_python(
    saved_model, iris_onnx, tmp_path
):
    python = fake_python(
        tmp_path / "python",
        f"""
        if "tf2onnx.convert" in sys.argv:
            shutil.copyfile({str(iris_onnx)!r}, sys.argv[sys.argv.index("--output") + 1])
        else:
            sys.path[:0] = {sys.path!r}
            import numpy, onnxruntime
            given = dict(numpy.load(sys.argv[4]))
            found = onnxruntime.InferenceSession({str(iris_onnx)!r}).run(None, given)
            numpy.savez(sys.argv[5], scores=found[0])
        """,
    )

    package = export(str(saved_model), tmp_path / "package", tf_python=python)

    calls = [json.loads(line) for line in (tmp_path / "python.calls").read_text().splitlines()]
    assert calls[0][:4] == ["-m", "tf2onnx.convert", "--saved-model", str(saved_model)]
    assert calls[1][0] == "-c"
    assert package.manifest.lineage[0].parameters["source"] == "tensorflow"
    facts = package.evidence("export")[0]
    assert facts["source"] == "TensorFlow"
    assert [line["batch"] for line in facts["lines"]] == [1, 2, 7]
    assert all(check.passed for check in verify(package.path))


def test_a_conversion_that_answers_otherwise_is_refused(saved_model, iris_onnx, tmp_path):
    python = fake_python(
        tmp_path / "python",
        f"""
        if "tf2onnx.convert" in sys.argv:
            shutil.copyfile({str(iris_onnx)!r}, sys.argv[sys.argv.index("--output") + 1])
        else:
            sys.path[:0] = {sys.path!r}
            import numpy
            rows = len(next(iter(numpy.load(sys.argv[4]).values())))
            numpy.savez(sys.argv[5], scores=numpy.eye(3, dtype="float32")[[0] * rows])
        """,
    )

    with pytest.raises(StepError, match=r"decides otherwise|differs from its source"):
        export(str(saved_model), tmp_path / "package", tf_python=python)
    assert not (tmp_path / "package").exists()


def test_without_a_python_for_tensorflow_the_hint_makes_one(saved_model, tmp_path, monkeypatch):
    monkeypatch.delenv("MLSERVE_TF_PYTHON", raising=False)
    with pytest.raises(DefinitionError, match="no Python with TensorFlow was named") as told:
        export(str(saved_model), tmp_path / "package")
    assert "pip install tensorflow-cpu tf2onnx" in told.value.hint


def test_a_python_that_lacks_tf2onnx_is_told_with_the_way_out(saved_model, tmp_path, monkeypatch):
    body = 'sys.exit("/usr/bin/python: No module named tf2onnx")'
    monkeypatch.setenv("MLSERVE_TF_PYTHON", fake_python(tmp_path / "python", body))

    with pytest.raises(StepError, match="No module named tf2onnx") as told:
        export(str(saved_model), tmp_path / "package")
    assert "pip install" in told.value.hint


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("MLSERVE_TF_PYTHON"), reason="MLSERVE_TF_PYTHON names no Python"
)
def test_a_real_keras_file_becomes_a_package(tmp_path):
    import subprocess

    program = (
        "import keras, sys\n"
        "m = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation='softmax')])\n"
        "m.save(sys.argv[1])\n"
    )
    file = tmp_path / "tiny.keras"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = os.environ["MLSERVE_TF_PYTHON"]
    subprocess.run([python, "-c", program, str(file)], check=True, env=environment)

    package = export(str(file), tmp_path / "package")

    assert package.evidence("export")[0]["relative_error"] < 1e-4
    assert all(check.passed for check in verify(package.path))


def test_a_program_for_torch_says_how_it_is_quantized_and_why_it_is_not_trained(tmp_path):
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.package.step import run
    from mlserve_cli.quantize import StaticStep
    from mlserve_cli.training import source

    saved_program(path := tmp_path / "net.pt2")
    package = export(str(path), tmp_path / "package", engine="torch")
    rows = golden.read(package.serve).inputs

    with pytest.raises(StepError, match="which is no ONNX model") as told:
        StaticStep([rows]).requires(package)
    with pytest.raises(StepError, match=r"torch\.export program, which cannot be trained"):
        source.load(package)

    command = told.value.hint.split()
    assert command[:2] == ["mlserve", "export"]
    again = export(command[2], tmp_path / "onnx")
    int8 = run(StaticStep([rows]), again, tmp_path / "int8", progress=Silent())
    assert int8.manifest.variant == "int8-static"
