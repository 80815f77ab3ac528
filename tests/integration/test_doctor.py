import json

import pytest
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.pipeline import machine


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    real = machine.gemm.measure
    monkeypatch.setattr(machine.gemm, "measure", lambda: real(seconds=0.05))


def test_doctor_says_what_the_machine_is_and_what_runs_on_it():
    result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 0
    for word in ("cpu", "memory", "onnxruntime", "int8", "times as fast as fp32", "bf16"):
        assert word in " ".join(result.stdout.split())
    assert "mlserve up" in result.stderr


def test_doctor_names_a_missing_extra_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(machine, "_installed", lambda module: module != "onnxruntime_ep_openvino")
    result = CliRunner().invoke(app, ["doctor"])

    assert "pip install 'mlserve-cli[openvino]'" in " ".join(result.stdout.split())


def test_doctor_reports_as_one_json_document():
    document = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)

    assert document["hardware"]["physical_cores"] >= 1
    assert document["speed"]["ratio"] > 0
    assert {each["name"] for each in document["extras"]} == {
        "torch",
        "sklearn",
        "boosting",
        "hf",
        "image",
        "text",
        "openvino",
        "nncf",
        "neural-compressor",
        "batch",
        "s3",
        "grpc",
        "loadgen",
        "otel",
    }
    assert all(each["install"].startswith("pip install") for each in document["extras"])
