import importlib.util

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import Choices, StaticStep

ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="needs the extra nncf"
)


@pytest.fixture
def parent(make_mlp, pack):
    return pack(make_mlp(), {"x": ROWS})


def quantize(parent, target, **choices):
    step = StaticStep([{"x": ROWS}], choices=Choices(**choices), quantizer="nncf")
    return run(step, parent, target, progress=Silent())


def answers(package) -> np.ndarray:
    engine = package.engine()
    found = engine.run({"x": ROWS})["y"]
    engine.close()
    return found


def activations(package) -> set[np.dtype]:
    import onnx

    model = onnx.load(package.model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {arrays[node.input[2]].dtype for node in nodes}


@pytest.mark.parametrize(
    "choices",
    [{}, {"calibrator": "percentile"}, {"bias_correction": True}, {"reduce_range": True}],
    ids=str,
)
def test_every_product_runs_in_int8_near_float(parent, tmp_path, choices):
    made = quantize(parent, tmp_path / "int8", **choices)
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (2, 0)
    exact = answers(parent)
    assert np.sqrt(np.mean((answers(made) - exact) ** 2)) < 0.05 * exact.std()
    assert made.manifest.lineage[-1].libraries["nncf"].startswith("3.4")


def test_activations_are_of_the_type_that_the_target_is_fast_with(parent, tmp_path):
    unsigned = quantize(parent, tmp_path / "u8s8")
    signed = quantize(parent, tmp_path / "s8s8", form="s8s8")
    assert activations(unsigned) == {np.dtype(np.uint8)}
    assert activations(signed) == {np.dtype(np.int8)}
    assert np.allclose(answers(unsigned), answers(signed), atol=1e-5)


def test_an_excluded_node_stays_in_float_and_one_that_is_not_there_is_named(parent, tmp_path):
    made = quantize(parent, tmp_path / "int8", exclude=("last",))
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (1, 1)
    with pytest.raises(StepError, match="'middle' cannot be excluded"):
        quantize(parent, tmp_path / "none", exclude=("middle",))


def test_the_same_model_and_rows_give_the_same_digest_and_nothing_is_printed(
    parent, tmp_path, capfd, caplog
):
    one, two = (quantize(parent, tmp_path / name, bias_correction=True) for name in ("a", "b"))
    assert one.manifest.digest == two.manifest.digest
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_its_refusal_is_a_sentence(parent, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no such layer.\nmore")

    monkeypatch.setattr("nncf.quantize", refuse)
    with pytest.raises(StepError, match=r"^NNCF cannot quantize the model: no such layer\.$"):
        quantize(parent, tmp_path / "int8")


def test_its_makers_are_not_told(parent, tmp_path):
    """NNCF replaces its telemetry by a mock where the variable is set before its import."""
    import subprocess
    import sys

    program = (
        "from mlserve_cli.quantize.quantizers import nncf as ours\n"
        "with ours._alone():\n"
        "    from nncf.telemetry.wrapper import telemetry\n"
        "print(type(telemetry).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "MagicMock", done.stderr
