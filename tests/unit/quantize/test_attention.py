"""Attention of an int8 model as one operator: the same answers, with masks of each kind."""

import numpy as np
import pytest

from mlserve_cli.graph import fusion, kernels
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, StaticStep, attention

WIDTH, HEADS = 16, 2


def rows(count=8, length=6, seed=0):
    rng = np.random.default_rng(seed)
    keep = np.arange(length) < rng.integers(1, length + 1, (count, 1))
    return {"x": rng.standard_normal((count, length, WIDTH), np.float32), "keep": keep}


def encoder(path, *, masked="where", fused=False):
    """One attention over `x`, and a product behind it; the mask is made of `keep`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from mlserve_cli.graph.attention import fuse

    rng = np.random.default_rng(1)
    weights = {f"w_{each}": rng.standard_normal((WIDTH, WIDTH)) / 4 for each in "qkvo"}
    weights |= {f"b_{each}": rng.standard_normal(WIDTH) / 4 for each in "qkvo"}
    weights |= {"none": np.array(0.0), "far": np.array(-1e30), "bit": np.array(0.3)}
    weights |= {"scale": np.array((WIDTH / HEADS) ** -0.5)}
    constants = [
        numpy_helper.from_array(np.asarray(array, np.float32), name)
        for name, array in weights.items()
    ]
    constants += [
        numpy_helper.from_array(np.array(array), name)
        for name, array in {
            "parted": [0, 0, HEADS, WIDTH // HEADS],
            "axes": [1, 2],
            "ends": [1, 3],
        }.items()
    ]
    constants.append(numpy_helper.from_array(np.array([0, 0, WIDTH]), "joined"))

    def node(operator, inputs, output, **attributes):
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    nodes = [node("Unsqueeze", ["keep", "axes"], "kept")]
    values = {"where": ["kept", "none", "far"], "soft": ["kept", "none", "bit"]}
    if masked == "square":  # as the operator for floats wants it
        nodes = [node("Unsqueeze", ["keep", "axes"], "row")]
        nodes += [
            node("Unsqueeze", ["keep", "ends"], "column"),
            node("Or", ["row", "column"], "kept"),
        ]
        values["square"] = values["where"]
    if masked == "turned":
        nodes += [node("Not", ["kept"], "gone"), node("Where", ["gone", "far", "none"], "mask")]
    else:
        nodes.append(node("Where", values[masked], "mask"))
    for each, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["x", f"w_{each}"], f"{each}_product"),
            node("Add", [f"{each}_product", f"b_{each}"], each),
            node("Reshape", [each, "parted"], f"{each}_parted"),
            node("Transpose", [f"{each}_parted"], f"{each}_heads", perm=order),
        ]
    nodes += [
        node("MatMul", ["q_heads", "k_heads"], "scores"),
        node("Mul", ["scores", "scale"], "scaled"),
        node("Add", ["scaled", "mask"], "masked"),
        node("Softmax", ["masked"], "shares", axis=-1),
        node("MatMul", ["shares", "v_heads"], "weighed"),
        node("Transpose", ["weighed"], "turned", perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "joined"], "whole"),
        node("MatMul", ["whole", "w_o"], "o_product"),
        node("Add", ["o_product", "b_o"], "y"),
    ]
    shape = ["batch", "length", WIDTH]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, shape[:2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if fused:
        assert fuse(model) == 1
    onnx.save(model, path)
    return path


@pytest.fixture
def quantized(pack, tmp_path):
    """The file that static int8 writes, and what the lineage says of it."""
    from mlserve_cli.package.step import run

    def make(name, *, fuse, **options):
        parent = pack(encoder(tmp_path / f"{name}.onnx", **options), rows(), name=name)
        step = StaticStep([rows(16)], choices=Choices(fuse=fuse))
        package = run(step, parent, tmp_path / f"{name}-int8", progress=Silent())
        return package, package.manifest.lineage[-1].parameters

    return make


@pytest.mark.parametrize("masked", ["where", "turned", "square"])
def test_attention_becomes_one_int8_operator_that_answers_as_before(quantized, masked):
    apart, _ = quantized("apart", fuse=False, masked=masked)
    together, parameters = quantized("together", fuse=True, masked=masked)

    assert parameters["fused_attention"] == 1
    found = kernels.read(together.model)
    assert found.nodes["QAttention"] == 1
    assert "Softmax" not in found.nodes
    for count, length in ((1, 1), (3, 9)):
        given = rows(count, length, seed=5)
        answers = []
        for package in (apart, together):
            engine = package.engine()
            answers.append(engine.run(given)["y"])
            engine.close()
        np.testing.assert_allclose(answers[1], answers[0], atol=2e-2 * np.abs(answers[0]).max())


def test_a_mask_that_only_weakens_scores_is_no_mask_of_the_operators(quantized):
    package, parameters = quantized("soft", fuse=True, masked="soft")

    assert "fused_attention" not in parameters
    assert kernels.read(package.model).nodes["Softmax"] == 1


def test_where_the_answers_would_differ_the_nodes_stay(quantized, monkeypatch):
    monkeypatch.setattr(attention, "HIDDEN", 0.0)  # hides nothing

    _, parameters = quantized("other", fuse=True)

    assert "fused_attention" not in parameters


@pytest.mark.parametrize("cost", [0.9, 1.1])
def test_where_nobody_says_it_is_fused_unless_that_is_slower_on_the_golden_rows(
    quantized, monkeypatch, cost
):
    timed = []

    def ratio(plain, fused, batches, **_):
        timed.append([len(batch["x"]) for batch in batches])
        return cost

    monkeypatch.setattr("mlserve_cli.graph.fusion.ratio", ratio)
    package, parameters = quantized("either", fuse=None)

    assert timed == [[1], [8]]
    assert parameters.get("fused_attention") == (1 if cost < 1 else None)
    assert ("QAttention" in kernels.read(package.model).nodes) == (cost < 1)
    # The same package as if it had been asked for: who replays it says which.
    said, _ = quantized("said", fuse=cost < 1)
    assert said.manifest.lineage[-1].parameters == parameters
    assert said.model.read_bytes() == package.model.read_bytes()


def test_a_batch_that_it_slows_down_more_than_it_speeds_up_another_decides(quantized, monkeypatch):
    monkeypatch.setattr(
        "mlserve_cli.graph.fusion.ratio",
        lambda plain, fused, batches, **_: 0.85 if len(batches[0]["x"]) == 1 else 1.25,
    )
    _, parameters = quantized("mixed", fuse=None)

    assert "fused_attention" not in parameters


def test_the_two_are_really_timed(quantized, monkeypatch):
    ratio, found = fusion.ratio, []
    monkeypatch.setattr(fusion, "QUICK_S", 0.05)
    monkeypatch.setattr(
        fusion, "ratio", lambda *given, **more: found.append(ratio(*given, **more)) or found[-1]
    )

    package, parameters = quantized("timed", fuse=None)

    assert len(found) == 2
    assert ("fused_attention" in parameters) == (found[0] * found[1] <= fusion.NOISE**2)
    assert ("fused_attention" in parameters) == ("QAttention" in kernels.read(package.model).nodes)


def test_a_package_with_fused_attention_is_taken_apart_and_quantized(quantized):
    package, parameters = quantized("fused", fuse=True, fused=True, masked="square")

    assert parameters["fused_attention"] == 1
    assert kernels.read(package.model).nodes["QAttention"] == 1


def test_signed_activations_keep_plain_nodes(pack, tmp_path):
    from mlserve_cli.package.step import run

    step = StaticStep([rows(16)], choices=Choices(fuse=True, form="s8s8"))
    package = run(
        step, pack(encoder(tmp_path / "plain.onnx"), rows()), tmp_path / "signed", progress=Silent()
    )

    assert "QAttention" not in kernels.read(package.model).nodes
