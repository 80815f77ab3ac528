"""The whole export: what it makes, what it refuses, and that nothing is left of a refusal."""

import shutil

import numpy as np
import pytest

from mlserve_cli.errors import DataError, DefinitionError, EngineError, PackageError, StepError
from mlserve_cli.export.export import export, valid_name
from mlserve_cli.package.package import Package
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.processing.declaration import ClassesOutput


class Heard:
    """A progress that remembers what it was told to say."""

    def __init__(self):
        self.said = []

    def stage(self, text, total=None):
        pass

    def advance(self, steps=1, note=""):
        pass

    def say(self, text):
        self.said.append(text)


TORCH = """
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
    torch.manual_seed(0)
    return Net()
def sample():
    return torch.linspace(-1, 1, 40).reshape(10, 4)
"""


def test_a_torch_definition_becomes_a_package_that_verifies(exported):
    package = exported(TORCH + "NAME = 'tiny'\nVERSION = '3'\nLICENCE = 'MIT'\n")
    manifest = package.manifest

    assert (manifest.name, manifest.version, manifest.licence) == ("tiny", "3", "MIT")
    assert (manifest.variant, manifest.sample) == ("fp32", "real")
    assert manifest.lineage[0].parameters == {"source": "torch", "opset": 20}
    assert set(manifest.lineage[0].libraries) == {"torch", "onnx", "onnxscript"}
    assert all(check.passed for check in verify(package.path))
    assert (package.source / "weights.safetensors").is_file()
    assert [line["batch"] for line in package.evidence("export")[0]["lines"]] == [1, 2, 7]


def test_labels_alone_make_a_classes_output_with_softmax_for_scores(exported):
    assert exported(TORCH).manifest.processing.output == ClassesOutput(
        tensor="output", softmax=True
    )


def test_labels_make_a_classes_output_without_softmax_for_shares(exported):
    text = TORCH.replace("return self.layer(x)", "return self.layer(x).softmax(1)")

    assert exported(text).manifest.processing.output == ClassesOutput(tensor="output")


def test_the_only_output_takes_the_name_that_processing_has_for_it(exported):
    package = exported(TORCH + "PROCESSING = {'output': {'kind': 'classes', 'tensor': 'scores'}}\n")

    assert [spec.name for spec in package.manifest.outputs] == ["scores"]


def test_two_exports_of_one_definition_have_one_digest(exported):
    assert exported(TORCH).manifest.digest == exported(TORCH).manifest.digest


def test_dynamic_sizes_are_named_and_run_at_another_length(exported):
    text = TORCH.replace("self.layer(x)", "x.cumsum(1)").replace("LABELS", "_")

    package = exported(text + "DYNAMIC = {'x': {1: 'length'}}\n")

    assert package.manifest.inputs[0].shape == ("batch", "length")


READY = """
import numpy as np
LABELS = ["a", "b", "c"]
def model():
    return "iris.onnx"
def sample():
    return np.ones((3, 4), np.float32)
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("DYNAMIC = {'z': {1: 'length'}}", "DYNAMIC of .* is"),
        ("DYNAMIC = {'x': {0: 'length'}}", "DYNAMIC of .* is"),
        ("OUTPUTS = ['a', 'b']", r"OUTPUTS of .* is \['a', 'b'\], and the model has 1 outputs"),
        ("def sample(): return torch.zeros(3, 9)", "the model rejects the sample"),
        ("def sample(): raise ValueError('no data')", "raised ValueError at line .*: no data"),
    ],
)
def test_a_wrong_definition_is_one_sentence_and_leaves_nothing(define, tmp_path, line, message):
    path = define(TORCH + line + "\n")
    target = tmp_path / "out" / "package"

    with pytest.raises((DefinitionError, StepError, PackageError), match=message) as told:
        export(str(path), target)

    assert "\n" not in told.value.message
    assert not target.exists()
    assert not target.parent.exists() or not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("NAME = 'a b'", "'a b' cannot be a model name"),
        (
            "LABELS = ['a', 'b']; PROCESSING = {'output': {'kind': 'classes', 'tensor': 'scores'}}",
            "there are 2 LABELS, and 'scores' has 3 classes",
        ),
        (
            "PROCESSING = {'input': {'kind': 'text', 'tensor': 'x'}}",
            "gives text to 'x', which takes FP32",
        ),
        (
            "PROCESSING = {'input': {'kind': 'text', 'tensor': 'y'}}",
            "names the input 'y', and the model's inputs are x",
        ),
        (
            "PROCESSING = {'input': {'kind': 'image', 'tensor': 'x', 'width': 2, 'height': 2}}",
            r"makes images of \(3, 2, 2\) \(NCHW\), and the model's input 'x' is \(batch, 4\)",
        ),
        (
            "PROCESSING = {'input': {'kind': 'table', 'tensor': 'x', 'columns': [{'name': 'a'}]}}",
            r"has 1 columns, and the model's input 'x' is \(batch, 4\)",
        ),
        (
            "PROCESSING = {'input': {'kind': 'table', 'columns': [{'name': 'a'}]}}",
            "the model also takes 'x'",
        ),
        (
            "PROCESSING = {'input': {'kind': 'text', 'tensor': 'x', 'tokenizer': 'no.json'}}",
            "the tokenizer of .* names 'no.json', no file beside it",
        ),
        ("PROCESSING = {'python': {}}", "names 'processing.py', no file beside it"),
        ("def calibration(): yield np.zeros((3, 9))", "calibration.. does not fit the model"),
        ("def calibration(): yield [[1, 2], [3]]", "a batch of calibration.. gives no array"),
        ("def model(): return 5", "returns int"),
        ("def model(): return 'none.onnx'", "returns 'none.onnx', which is no file"),
        ("del model", "has no function model"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
    ],
)
def test_a_definition_that_does_not_fit_its_model_is_one_sentence_and_leaves_nothing(
    define, iris_onnx, tmp_path, line, message
):
    path = define(READY + line + "\n")
    shutil.copyfile(iris_onnx, path.parent / "iris.onnx")

    with pytest.raises((DefinitionError, StepError, PackageError), match=message) as told:
        export(str(path), tmp_path / "out" / "package")

    assert "\n" not in told.value.message
    assert not list(tmp_path.glob("out/*"))
    assert not list(tmp_path.glob("out/.*"))


def test_a_definition_whose_framework_is_missing_names_the_extra(define, tmp_path, monkeypatch):
    import sys

    from mlserve_cli.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "sklearn", None)

    with pytest.raises(MissingExtra) as told:
        export(str(define("import sklearn\n")), tmp_path / "package")

    assert told.value.hint == "pip install 'mlserve-cli[sklearn]'"


def test_processing_py_travels_and_must_not_need_torch(define, tmp_path):
    declared = TORCH + "PROCESSING = {'python': {}}\n"
    good = "def preprocess(rows):\n    return {'x': rows}\n"
    path = define(declared, processing__py=good)

    package = export(str(path), tmp_path / "package")

    assert (package.serve / "processing.py").read_text() == good
    path = define(declared, processing__py="import torch\n" + good)
    with pytest.raises(PackageError, match="torch"):
        export(str(path), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_ready_file_is_served_byte_for_byte_and_its_made_up_rows_are_said(iris_onnx, tmp_path):
    heard = Heard()

    package = export(str(iris_onnx), tmp_path / "package", progress=heard)

    assert package.model.read_bytes() == iris_onnx.read_bytes()
    assert (package.manifest.name, package.manifest.sample) == ("iris", "synthetic")
    assert any("made-up rows" in text for text in heard.said)
    assert not package.source.exists()
    assert all(check.passed for check in verify(package.path))


def test_made_up_rows_are_the_same_each_time(iris_onnx, tmp_path):
    digests = {export(str(iris_onnx), tmp_path / name).manifest.digest for name in ("one", "two")}

    assert len(digests) == 1


def test_calibration_rows_make_a_ready_file_proven_on_real_ones(iris, iris_onnx, tmp_path):
    np.savez(tmp_path / "flowers.npz", x=iris[0])

    package = export(
        str(iris_onnx), tmp_path / "package", calibration=str(tmp_path / "flowers.npz")
    )

    assert package.manifest.sample == "real"
    assert np.array_equal(golden.read(package.serve).inputs["x"], iris[0][:32])


def test_calibration_rows_that_do_not_fit_are_refused(iris, iris_onnx, tmp_path):
    np.savez(tmp_path / "flowers.npz", x=iris[0][:, :2])

    with pytest.raises((DataError, DefinitionError)):
        export(str(iris_onnx), tmp_path / "package", calibration=str(tmp_path / "flowers.npz"))
    assert not (tmp_path / "package").exists()


def test_weights_in_files_of_their_own_move_into_the_model(iris_onnx, tmp_path):
    import onnx

    onnx.save_model(
        onnx.load(iris_onnx),
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="split.data",
        size_threshold=0,
    )
    package = export(str(tmp_path / "split.onnx"), tmp_path / "package")

    assert [path.name for path in package.serve.glob("*.data")] == []
    assert all(check.passed for check in verify(package.path))
    (tmp_path / "split.data").unlink()
    with pytest.raises(StepError, match=r"the weights of .* cannot be read"):
        export(str(tmp_path / "split.onnx"), tmp_path / "other")


def test_a_batch_of_another_name_is_called_batch(iris_onnx, tmp_path):
    import onnx

    model = onnx.load(iris_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "n.onnx")

    package = export(str(tmp_path / "n.onnx"), tmp_path / "package")

    assert package.manifest.inputs[0].shape == ("batch", 4)


def test_a_fixed_batch_is_kept_and_said_to_be_no_batch(iris_onnx, tmp_path):
    import onnx

    model = onnx.load(iris_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")

    package = export(str(tmp_path / "two.onnx"), tmp_path / "package")

    assert package.manifest.inputs[0].shape == (2, 4)
    assert not package.manifest.batch.invariant


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a", b"PK\x03\x04" * 50])
def test_a_file_that_is_no_onnx_is_one_sentence(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)

    with pytest.raises(StepError, match=r"bad\.onnx' is no ONNX file, or not a whole one"):
        export(str(tmp_path / "bad.onnx"), tmp_path / "package")


def test_a_file_that_was_cut_short_is_refused_at_any_length(iris_onnx, tmp_path):
    whole = iris_onnx.read_bytes()
    for share in (0.3, 0.6, 0.95):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises((StepError, EngineError)):
            export(str(tmp_path / "cut.onnx"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.py", "does not exist"), (".", "is a folder"), ("notes.txt", r"it is \.txt")],
)
def test_a_source_of_another_kind_is_refused_before_any_work(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("notes")

    with pytest.raises(DefinitionError, match=message):
        export(str(tmp_path / name), tmp_path / "package")


def test_a_place_that_is_taken_is_refused_before_the_model_is_loaded(define, tmp_path):
    path = define("raise RuntimeError('loaded')")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "mine.txt").write_text("mine")

    with pytest.raises(PackageError, match="exists already"):
        export(str(path), tmp_path / "package")
    with pytest.raises(PackageError, match="is not a package"):
        export(str(path), tmp_path / "package", overwrite=True)


def test_an_interrupt_leaves_nothing(define, tmp_path):
    path = define(TORCH + "def calibration():\n    raise KeyboardInterrupt\n    yield\n")

    with pytest.raises(KeyboardInterrupt):
        export(str(path), tmp_path / "out" / "package")

    assert list((tmp_path / "out").iterdir()) == []


def test_a_forced_export_replaces_the_package_whole(iris_onnx, tmp_path):
    export(str(iris_onnx), tmp_path / "package", name="first")

    export(str(iris_onnx), tmp_path / "package", name="second", overwrite=True)

    assert Package.open(tmp_path / "package").manifest.name == "second"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_definition_around_a_ready_file_has_its_rows_and_labels(define, iris_onnx, tmp_path):
    path = define(
        "import numpy as np\nLABELS = 'abc'\n"
        "def model(): return 'iris.onnx'\n"
        "def sample(): return np.ones((3, 4))\n"  # float64 fits a float32 model
    )
    shutil.copyfile(iris_onnx, path.parent / "iris.onnx")

    package = export(str(path), tmp_path / "package")

    assert package.manifest.sample == "real"
    assert package.manifest.labels == ("a", "b", "c")
    assert package.manifest.processing.output == ClassesOutput(tensor="scores")


@pytest.mark.parametrize(
    ("text", "name"),
    [("my model", "my-model"), ("..x", "x"), ("日本", "model"), ("a" * 200, "a" * 128)],
)
def test_any_text_makes_a_valid_name(text, name):
    assert valid_name(text) == name
