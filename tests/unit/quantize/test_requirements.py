from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import DynamicStep, StaticStep
from mlserve_cli.quantize.requirements import operators

ROWS = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)


def test_a_quantized_package_is_not_quantized_again(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS})
    child = run(StaticStep([{"x": ROWS}]), parent, tmp_path / "int8", progress=Silent())
    for step in (StaticStep([{"x": ROWS}]), DynamicStep()):
        with pytest.raises(StepError, match=r"\(int8-static\) is quantized already"):
            step.requires(child)


def test_a_tree_ensemble_is_refused_with_the_reason(tmp_path, pack):
    from skl2onnx import to_onnx
    from sklearn.datasets import load_breast_cancer
    from sklearn.tree import DecisionTreeClassifier

    data = load_breast_cancer()
    rows = data.data.astype(np.float32)
    fitted = DecisionTreeClassifier(max_depth=3, random_state=0).fit(rows, data.target)
    path = tmp_path / "tree.onnx"
    options = {DecisionTreeClassifier: {"zipmap": False}}
    path.write_bytes(to_onnx(fitted, rows[:1], options=options).SerializeToString())
    parent = pack(path, {"X": rows[:20]})
    for step in (StaticStep([{"X": rows}]), DynamicStep()):
        with pytest.raises(StepError, match="tree ensemble"):
            step.requires(parent)


def test_a_model_without_products_is_refused(make_onnx, pack):
    parent = pack(make_onnx([("Relu", ["x"], ["y"], "r", {})], {}, shape=[8], out=[8]), {"x": ROWS})
    with pytest.raises(StepError, match="nothing to quantize: no Conv, Gemm or MatMul") as caught:
        StaticStep([{"x": ROWS}]).requires(parent)
    assert "serve it as it is" in caught.value.hint


def test_dynamic_sends_a_convolution_to_the_static_method(make_onnx, pack):
    weights = {"w": np.ones((2, 1, 3, 3), np.float32)}
    model = make_onnx(
        [("Conv", ["x", "w"], ["y"], "conv", {})], weights, shape=[1, 5, 5], out=[2, 3, 3]
    )
    parent = pack(model, {"x": np.ones((4, 1, 5, 5), np.float32)})
    with pytest.raises(StepError, match="dynamic int8 makes those slower") as error:
        DynamicStep().requires(parent)
    assert "static" in error.value.hint


def test_a_package_that_holds_no_onnx_is_refused(make_mlp, pack):
    import msgspec

    from mlserve_cli.package.package import Package

    parent = pack(make_mlp(), {"x": ROWS})
    other = msgspec.structs.replace(parent.manifest, engine="torch", model="model.pt2")
    with pytest.raises(StepError, match=r"the engine 'torch' from 'model\.pt2', which is no ONNX"):
        StaticStep([{"x": ROWS}]).requires(Package(parent.path, other))


def test_attention_that_another_tool_fused_is_refused_with_the_way_out(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Attention", ["x", "w"], ["y"], domain="com.microsoft")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwy"]
    graph = helper.make_graph([node], "g", sides[:2], sides[2:])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    package = SimpleNamespace(path=tmp_path, model=tmp_path / "model.onnx")

    with pytest.raises(StepError, match=r"another tool fused \(Attention\)") as told:
        operators(package)
    assert "export it from the model that it was made from" in told.value.hint


def test_products_inside_branches_are_named_with_the_branch(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [name], name=name)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    }
    node = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        name="rate",
        then_branch=branches["then"],
        else_branch=branches["else"],
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xw"]
    inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", inputs, [output])), tmp_path / "model.onnx"
    )
    package = SimpleNamespace(path=tmp_path, model=tmp_path / "model.onnx")

    with pytest.raises(
        StepError,
        match=r"nothing to quantize in its main graph: MatMul lie inside "
        r"If 'rate'",
    ) as told:
        StaticStep([]).requires(package)
    assert "make the branch that you use the main graph" in told.value.hint
