import importlib.util

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.errors import MissingExtra, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.pipeline import steps
from mlserve_cli.quantize import Choices, StaticStep, quantizers, static

ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)


class Scripted:
    """A quantizer that does as it is told, and remembers what it was asked."""

    name = "scripted"
    libraries = ("numpy",)

    def __init__(self, *, answer=None, refusal=None):
        self.answer, self.refusal, self.asked, self.jobs = answer, refusal, [], []

    def requires(self, parent, choices):
        self.asked.append((parent.path, choices))
        if self.refusal:
            raise self.refusal

    def quantize(self, job):
        self.jobs.append((job.rows.count, job.choices, [n.name for n in job.prepared.graph.node]))
        if self.answer:
            return self.answer(job)
        return static.quantize(job.prepared, job.rows, job.choices)


def quantize(parent, target, quantizer, **choices):
    step = StaticStep([{"x": ROWS}], choices=Choices(**choices), quantizer=quantizer)
    return run(step, parent, target, progress=Silent())


@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_every_name_of_the_table_leads_to_a_quantizer_of_that_name(name):
    assert quantizers.find(name).name == name


def test_a_name_that_is_not_in_the_table_is_answered_with_those_that_are():
    with pytest.raises(StepError, match="'gptq' is no quantizer") as caught:
        StaticStep([], quantizer="gptq")
    assert caught.value.hint == "it can be onnxruntime, nncf, neural-compressor"


def test_a_quantizer_is_asked_with_the_choices_and_given_the_prepared_graph_and_checked_rows(
    make_mlp, pack, tmp_path
):
    scripted = Scripted()
    parent = pack(make_mlp(), {"x": ROWS})
    quantize(parent, tmp_path / "int8", scripted, bias_correction=True)
    assert scripted.asked == [(parent.path, Choices(bias_correction=True))]
    assert scripted.jobs == [(64, Choices(bias_correction=True), ["first", "relu", "last"])]


def test_the_lineage_says_who_quantized_and_with_which_libraries(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS})
    theirs = quantize(parent, tmp_path / "theirs", Scripted()).manifest.lineage[-1]
    ours = quantize(parent, tmp_path / "ours", "onnxruntime").manifest.lineage[-1]
    assert theirs.parameters["quantizer"] == "scripted"
    assert theirs.libraries.keys() == {"onnx", "onnxruntime", "numpy"}
    assert ours.parameters["quantizer"] == "onnxruntime"
    assert ours.libraries.keys() == {"onnx", "onnxruntime"}


def test_a_result_of_which_nothing_runs_in_int8_is_refused_whoever_wrote_it(
    make_mlp, pack, tmp_path
):
    lazy = Scripted(answer=lambda job: static.Quantized(model=job.prepared))
    with pytest.raises(StepError, match="no convolution and no matrix product"):
        quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", lazy)
    assert not (tmp_path / "int8").exists()


def test_a_refusal_comes_before_any_row_is_read(make_mlp, pack, tmp_path):
    def rows():
        raise AssertionError("read")
        yield

    step = StaticStep(rows(), quantizer=Scripted(refusal=StepError("it cannot.")))
    with pytest.raises(StepError, match="it cannot"):
        run(step, pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", progress=Silent())


@pytest.mark.parametrize("name", ["nncf", "neural-compressor"])
def test_a_missing_library_is_answered_with_the_pip_line(
    make_mlp, pack, tmp_path, monkeypatch, name
):
    found = importlib.util.find_spec
    missing = {"nncf", "neural_compressor"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda module: None if module in missing else found(module)
    )
    with pytest.raises(MissingExtra, match="is not installed") as caught:
        quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", name)
    assert caught.value.hint == f"pip install 'mlserve-cli[{name}]'"


@pytest.mark.parametrize(
    ("name", "choices", "sentence"),
    [
        ("nncf", {"calibrator": "entropy"}, "has no calibrator 'entropy'"),
        ("nncf", {"calibrator": "mse"}, "has no calibrator 'mse'"),
        ("neural-compressor", {"calibrator": "percentile"}, "has no calibrator 'percentile'"),
        ("neural-compressor", {"smooth": True}, "cannot smooth"),
        ("neural-compressor", {"bias_correction": True}, "has no bias correction"),
        ("neural-compressor", {"reduce_range": True}, "has no weights of seven bits"),
        ("neural-compressor", {"form": "s8s8"}, "writes unsigned activations only"),
        ("neural-compressor", {"exclude": ("last",)}, "cannot exclude nodes"),
    ],
)
def test_what_a_quantizer_cannot_do_is_refused_by_name(
    make_mlp, pack, tmp_path, name, choices, sentence
):
    with pytest.raises(StepError, match=f"the quantizer '{name}' {sentence}"):
        quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", name, **choices)


def test_neural_compressor_refuses_a_package_without_its_module(
    make_mlp, pack, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: object())
    with pytest.raises(StepError, match="holds no torch module"):
        quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", "neural-compressor")


def test_a_recipe_names_its_quantizer(make_mlp, pack, tmp_path):
    step = steps.quantize([{"x": ROWS}], quantizer="onnxruntime", cache=False)
    made = run(step, pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", progress=Silent())
    assert made.manifest.lineage[-1].parameters["quantizer"] == "onnxruntime"
    with pytest.raises(StepError, match="'olive' is no quantizer"):
        steps.quantize([{"x": ROWS}], quantizer="olive")


def test_the_command_refuses_a_quantizer_with_a_method_that_would_ignore_it(tmp_path):
    from mlserve_cli.cli.main import app

    result = CliRunner().invoke(
        app,
        ["quantize", str(tmp_path), "-o", "x", "--method", "dynamic", "--quantizer", "nncf"],
    )
    assert result.exit_code == 2
    assert "--method static" in result.output
