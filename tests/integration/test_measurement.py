"""Real tiny packages through `mlserve evaluate` and `mlserve bench`; structure, never speed."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.errors import DefinitionError, MlserveError, StepError
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest

DEFINITION = """
import numpy as np

def model():
    return None

def evaluation():
    random = np.random.default_rng(1)
    for _ in range(3):
        rows = random.standard_normal((20, 4)).astype(np.float32)
        yield rows, (rows.argmax(axis=1) + (random.random(20) < 0.25)) % 4
"""


@pytest.fixture(scope="module")
def make_package(tmp_path_factory):
    """A package whose scores are its inputs times `gain`; argmax is the answer."""
    from onnx import TensorProto, helper, numpy_helper, save

    def make(name, *, gain=1.0, definition=None):
        weights = numpy_helper.from_array(np.eye(4, dtype=np.float32) * np.float32(gain), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["scores"])],
            "scores",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        target = tmp_path_factory.mktemp("packages") / name
        rows = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
        with create(target) as draft:
            save(model, draft.serve / "model.onnx")
            if definition is not None:
                draft.source.mkdir()
                (draft.source / "definition.py").write_text(definition)
            manifest = Manifest(name="scores", version="1", variant="fp32", inputs=(), outputs=())
            finish(draft, manifest, [{"x": rows}])
        return Package.open(target)

    return make


@pytest.fixture
def mlserve():
    """Run the command line in this process."""
    from mlserve_cli.cli.main import app

    def run(*arguments, fails=False):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if fails:
            return result
        assert result.exit_code == 0, result.output
        return result

    return run


def test_evaluate_prints_a_table_and_appends_evidence(make_package, mlserve):
    package = make_package("good", definition=DEFINITION)
    result = mlserve("evaluate", package.path)
    assert "accuracy" in result.stdout
    assert f"next: mlserve bench {package.path}" in result.stderr.replace("\n", "")
    (evidence,) = package.evidence("accuracy")
    assert evidence["n"] == 60
    assert evidence["low"] < evidence["value"] < evidence["high"]
    assert evidence["source"] == "evaluation() of the definition"
    assert evidence["interval"] == "95 %, Wilson"
    assert evidence["digest"] == package.manifest.digest


def test_evaluate_prints_one_json_document(make_package, mlserve):
    package = make_package("good", definition=DEFINITION)
    document = json.loads(mlserve("evaluate", package.path, "--json").stdout)
    assert document["schema"] == 1
    assert document["metric"] == "accuracy"
    assert document["package"] == str(package.path)


def test_evaluate_takes_the_definitions_own_metric(make_package, mlserve):
    own = DEFINITION + (
        "METRIC = {'name': 'top-2', 'unit': ''}\n"
        "def metric(outputs, targets):\n"
        "    return (np.argsort(outputs, axis=1)[:, -2:] == targets[:, None]).any(axis=1)\n"
    )
    document = json.loads(
        mlserve("evaluate", make_package("own", definition=own).path, "--json").stdout
    )
    assert document["metric"] == "top-2"
    assert 0.75 < document["value"] <= 1.0


def test_evaluate_takes_rows_with_targets_from_a_file(make_package, mlserve, tmp_path):
    rows = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1]]
    np.savez(tmp_path / "rows.npz", x=rows, target=np.array([0, 1, 2, 3, 0]))
    package = make_package("bare")
    document = json.loads(
        mlserve("evaluate", package.path, "--data", tmp_path / "rows.npz", "--json").stdout
    )
    assert (document["metric"], document["n"], document["value"]) == ("accuracy", 5, 80.0)
    assert document["source"] == str(tmp_path / "rows.npz")


def test_evaluate_counts_equal_decisions_where_nobody_knows_the_truth(
    make_package, mlserve, tmp_path
):
    np.savez(tmp_path / "rows.npz", x=np.eye(4, dtype=np.float32))
    package, other = make_package("bare"), make_package("other", gain=-1.0)
    arguments = ("evaluate", package.path, "--data", tmp_path / "rows.npz", "--json")
    same = json.loads(mlserve(*arguments, "--reference", package.path).stdout)
    assert (same["metric"], same["value"]) == ("agreement", 100.0)
    differs = json.loads(mlserve(*arguments, "--reference", other.path).stdout)
    assert differs["value"] == 0.0
    refused = mlserve(*arguments, fails=True)
    assert isinstance(refused.exception, MlserveError)
    assert "no targets" in refused.exception.message
    assert "--reference" in refused.exception.hint


def test_a_reference_wins_over_what_evaluation_yields(make_package, mlserve):
    package, other = make_package("good", definition=DEFINITION), make_package("other", gain=3.0)
    document = json.loads(
        mlserve("evaluate", package.path, "--reference", other.path, "--json").stdout
    )
    assert (document["metric"], document["value"], document["n"]) == ("agreement", 100.0, 60)
    assert document["source"].endswith("against the decisions of other")


def test_evaluate_without_anything_to_evaluate_with_says_so(make_package, mlserve):
    package = make_package("bare")
    result = mlserve("evaluate", package.path, fails=True)
    assert isinstance(result.exception, StepError)
    assert "it holds no model definition" in result.exception.message
    assert "--data" in result.exception.hint
    assert package.evidence() == []


def test_evaluate_names_the_line_where_a_metric_raises(make_package, mlserve):
    broken = DEFINITION + "\n\ndef metric(outputs, targets):\n    return outputs.softmax()\n"
    result = mlserve("evaluate", make_package("broken", definition=broken).path, fails=True)
    assert isinstance(result.exception, DefinitionError)
    assert "raised AttributeError at line" in result.exception.message


def test_bench_prints_a_table_and_appends_evidence_to_each_package(make_package, mlserve):
    first, second = make_package("first"), make_package("second", gain=2.0)
    result = mlserve(
        "bench", first.path, second.path, "--batch", "1,4", "--seconds", "0.02", "--threads", "1"
    )
    assert "speed-up (95 %)" in result.stdout
    assert "next: mlserve emit" in result.stderr
    for package in (first, second):
        (evidence,) = package.evidence("bench")
        assert [found["batch"] for found in evidence["batches"]] == [1, 4]
        assert evidence["hardware"]["physical_cores"] >= 1
        assert evidence["threads"] == 1
        assert evidence["size_bytes"] == package.size_bytes
        for found in evidence["batches"]:
            assert 0 < found["p50_low_ms"] <= found["p50_ms"] <= found["p50_high_ms"]
            assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
            assert found["runs"] >= 20
    assert "against_first" in second.evidence("bench")[0]["batches"][0]


def test_bench_prints_one_json_document(make_package, mlserve):
    package = make_package("alone")
    document = json.loads(
        mlserve("bench", package.path, "--batch", "2", "--seconds", "0.02", "--json").stdout
    )
    assert document["schema"] == 1
    assert document["packages"][0]["label"] == "alone"
    assert document["packages"][0]["batches"][0]["rows_per_s"] > 0


def test_bench_refuses_a_batch_size_that_is_none(make_package, mlserve):
    package = make_package("alone")
    for text in ("0", "1,,2", "eight", "-1"):
        result = mlserve("bench", package.path, f"--batch={text}", fails=True)
        assert result.exit_code == 2
        assert "is no batch size" in result.output


def test_bench_ends_cleanly_at_ctrl_c_and_leaves_no_evidence(make_package):
    package = make_package("alone")
    arguments = ["bench", str(package.path), "--batch", "1", "--seconds", "60"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stderr:
            if line.startswith("measuring"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert package.evidence() == []
