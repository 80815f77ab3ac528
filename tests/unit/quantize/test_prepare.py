from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.quantize import prepare as prepared
from mlserve_cli.quantize.prepare import prepare


def fail(*_args, **_options):
    raise RuntimeError("no shape\nand a long trace")


def test_a_model_that_symbolic_inference_refuses_is_prepared_without_it(
    make_mlp, tmp_path, monkeypatch
):
    import onnx
    from onnxruntime.quantization import shape_inference

    real = shape_inference.quant_pre_process
    asked = []

    def picky(source, target, **options):
        asked.append(options)
        if not options.get("skip_symbolic_shape"):
            raise AssertionError("cannot merge dimensions")
        real(source, target, **options)

    monkeypatch.setattr(shape_inference, "quant_pre_process", picky)
    path = prepared.prepare(make_mlp(), tmp_path)
    assert asked == [{}, {"skip_symbolic_shape": True}]
    assert {info.name for info in onnx.load(path).graph.value_info} >= {"h", "r"}


def test_a_model_whose_shapes_cannot_be_inferred_is_an_error(make_mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.quantization.shape_inference.quant_pre_process", fail)
    with pytest.raises(StepError, match=r"tensors cannot be inferred: no shape\.$"):
        prepared.prepare(make_mlp(), tmp_path)


def test_an_opset_that_cannot_be_converted_is_an_error_with_a_hint(make_mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx.version_converter.convert_version", fail)
    with pytest.raises(StepError, match="has opset 11, and cannot be converted to 13") as error:
        prepared.prepare(make_mlp(opset=11), tmp_path)
    assert "opset 13 or newer" in error.value.hint


def test_a_model_too_large_for_one_message_is_refused(make_mlp, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "LIMIT_BYTES", 100)
    with pytest.raises(StepError, match="GB of weights, and at most"):
        prepared.prepare(make_mlp(), tmp_path)


def test_nodes_without_a_name_get_one_each(make_onnx, tmp_path):
    import onnx

    nodes = [
        ("MatMul", ["x", "w"], ["h"], "", {}),
        ("Erf", ["h"], ["e"], "", {}),
        ("MatMul", ["e", "w"], ["y"], "", {}),
    ]
    weights = {"w": np.eye(8, dtype=np.float32)}
    graph = onnx.load(prepared.prepare(make_onnx(nodes, weights, shape=[8], out=[8]), tmp_path))
    names = [node.name for node in graph.graph.node]
    assert all(names)
    assert len(set(names)) == 3


def test_nothing_is_left_in_the_working_folder_when_shapes_cannot_be_inferred(
    make_mlp, tmp_path, monkeypatch
):
    from onnxruntime.quantization import shape_inference

    from mlserve_cli.errors import StepError

    def gives_up(*sent, **named):
        Path("sym_shape_infer_temp.onnx").touch()
        raise RuntimeError("Incomplete symbolic shape inference")

    monkeypatch.setattr(shape_inference, "quant_pre_process", gives_up)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    path = make_mlp()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(StepError, match="Incomplete symbolic shape inference"):
        prepare(path, tmp_path / "there")
    assert list((tmp_path / "here").iterdir()) == []
