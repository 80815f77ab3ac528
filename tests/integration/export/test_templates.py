"""Every template that `mlserve init` writes exports, verifies and evaluates as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError
from mlserve_cli.export.export import export
from mlserve_cli.export.start import TEMPLATES, start
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.hardware import detect

MLSERVE = Path(sys.executable).with_name("mlserve")


def mlserve(*words):
    """Run the command line; return its exit status, stdout and stderr."""
    done = subprocess.run(
        [MLSERVE, *map(str, words)], capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("template", "accuracy"),
    [
        ("image", 96),
        ("text", 80),
        ("table", 95),
        ("onnx", 95),
    ],
)
def test_a_template_goes_from_init_to_a_measured_package(tmp_path, template, accuracy):
    folder, package = tmp_path / "mine", tmp_path / "package"

    status, _, stderr = mlserve("init", folder, "--template", template)
    assert status == 0, stderr
    assert f"next: mlserve export {folder / 'model.py'}" in stderr
    status, stdout, stderr = mlserve("export", folder / "model.py", "-o", package, "--json")
    assert status == 0, stderr
    assert f"next: mlserve evaluate {package}" in stderr
    assert "Warning" not in stderr
    assert json.loads(stdout)["sample"] == "real"
    status, stdout, stderr = mlserve("verify", package, "--json")
    assert status == 0, stdout + stderr
    assert json.loads(stdout)["passed"]
    status, stdout, stderr = mlserve("evaluate", package, "--json")
    assert status == 0, stderr

    manifest = Package.open(package).manifest
    assert manifest.batch.invariant
    assert manifest.processing.input is not None
    assert manifest.labels
    points = _value(json.loads(stdout))
    assert accuracy < points <= 100


def _value(document):
    """The metric's value, wherever the document of evaluate holds it."""
    found = document.get("value")
    return found if found is not None else _value(document["evaluation"])


@pytest.mark.parametrize("template", ["text", "table", "onnx"])
def test_two_exports_of_a_template_have_one_digest(tmp_path, template):
    start(tmp_path / "mine", template)

    digests = {
        export(str(tmp_path / "mine" / "model.py"), tmp_path / name).manifest.digest
        for name in ("one", "two")
    }

    assert len(digests) == 1


def test_the_onnx_templates_file_is_what_its_text_says(tmp_path):
    """A scaler and softmax regression, fitted on two of every three rows of wine.csv."""
    import onnxruntime as ort
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start(tmp_path / "mine", "onnx")
    module = Definition.load(tmp_path / "mine" / "model.py").module
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(*module.split("train"))
    rows, _ = module.split("test")
    session = ort.InferenceSession(tmp_path / "mine" / "model.onnx")

    found = session.run(None, {"measures": rows})[0]

    assert np.allclose(found, fitted.predict_proba(rows), atol=1e-3)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_function_and_constant_of_a_template_is_one_that_mlserve_knows(template, tmp_path):
    import mlserve_cli.package.definition as definition

    (source,) = (path for path in start(tmp_path / "mine", template) if path.suffix == ".py")
    text = source.read_text(encoding="utf-8")

    for name in ("model", "sample", "evaluation", "metric"):
        assert f"def {name}(" in text
    constants = set(re.findall(r"^(?:# )?([A-Z]+) = ", text, flags=re.MULTILINE))
    own = {"DATA", "COLUMNS", "TOPICS"}
    assert {name for name in constants - own if name not in definition.__doc__} == set()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(DefinitionError, match="is not empty"):
        start(tmp_path, "table")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_template_is_told_those_that_there_are(tmp_path):
    with pytest.raises(DefinitionError) as told:
        start(tmp_path / "mine", "video")

    assert told.value.hint == "it can be image, text, table, onnx"
    assert not (tmp_path / "mine").exists()


def test_a_missing_source_is_a_sentence_and_a_hint_and_status_1(tmp_path):
    status, stdout, stderr = mlserve("export", tmp_path / "no.py", "-o", tmp_path / "package")

    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: ")
    assert "hint: " in stderr
    assert "Traceback" not in stderr


def test_the_table_template_is_told_that_there_is_nothing_to_quantize(tmp_path):
    folder, package = tmp_path / "mine", tmp_path / "package"
    assert mlserve("init", folder, "--template", "table")[0] == 0
    assert mlserve("export", folder / "model.py", "-o", package)[0] == 0

    status, _, stderr = mlserve("quantize", package, "-o", tmp_path / "int8")

    assert status == 1
    assert "has nothing to quantize: no Conv, Gemm or MatMul" in stderr


@pytest.mark.skipif(
    not any("vnni" in name for name in detect().isa), reason="no VNNI: int8 need not be faster"
)
def test_the_pictures_template_gains_from_int8(tmp_path):
    folder, package, small = (tmp_path / name for name in ("mine", "package", "int8"))
    assert mlserve("init", folder, "--template", "image")[0] == 0
    assert mlserve("export", folder / "model.py", "-o", package)[0] == 0

    status, _, stderr = mlserve("quantize", package, "-o", small)

    assert status == 0, stderr
    assert Package.open(small).manifest.variant == "int8-static"
