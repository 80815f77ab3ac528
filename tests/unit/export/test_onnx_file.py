"""Foreign ONNX files: tidied where that changes no answer, kept where it would, refused by name."""
# ruff: noqa: TID253

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.export.export import export
from mlserve_cli.graph import free_batch, opset, repair, zipmap
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.processing.declaration import ClassesOutput


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, inputs, outputs, weights=(), *, version=17, ir=8, domains=()):
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, list(weights)),
        opset_imports=[
            helper.make_opsetid("", version),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        ir_version=ir,
    )
    onnx.save(model, path)
    return model


def weight(name, *shape):
    return numpy_helper.from_array(
        np.random.default_rng(0).standard_normal(shape).astype(np.float32), name
    )


def said(package):
    return " ".join(package.manifest.lineage[0].parameters.get("changes", []))


def test_weights_in_constants_and_among_the_inputs_are_tidied(tmp_path):
    kernel = helper.make_node("Constant", [], ["kernel"], value=weight("", 3, 2))
    save(
        tmp_path / "m.onnx",
        [
            kernel,
            helper.make_node("MatMul", ["x", "kernel"], ["h"], name="same"),
            helper.make_node("Add", ["h", "bias"], ["y"], name="same"),
            helper.make_node("Neg", ["h"], ["unread"]),
        ],
        [value("x", ["N", 3]), value("bias", [2])],
        [value("y", ["N", 2])],
        [weight("bias", 2), weight("never", 4)],
    )

    package = export(str(tmp_path / "m.onnx"), tmp_path / "package")

    model = onnx.load(package.model)
    assert {each.name for each in model.graph.initializer} == {"kernel", "bias"}
    assert [each.name for each in model.graph.input] == ["x"]
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]
    assert len({node.name for node in model.graph.node}) == 2
    assert package.manifest.inputs[0].shape == ("batch", 3)
    assert "constants are initializers now" in said(package)
    assert all(check.passed for check in verify(package.path))


@pytest.mark.parametrize("version", [7, 9, 11, 12])
def test_an_old_opset_is_converted_and_answers_as_before(tmp_path, version):
    save(
        tmp_path / "old.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="a"),
            helper.make_node("Relu", ["h"], ["r"], name="b"),
            helper.make_node("Softmax", ["r"], ["y"], axis=1, name="c"),
        ],
        [value("x", ["N", 3])],
        [value("y", ["N", 4])],
        [weight("w", 3, 4)],
        version=version,
        ir=4,
    )
    import onnxruntime as ort

    package = export(str(tmp_path / "old.onnx"), tmp_path / "package")

    assert opset.of(onnx.load(package.model)) == 17
    assert package.manifest.lineage[0].parameters["opset_before"] == version
    proof = golden.read(package.serve)
    before = ort.InferenceSession(tmp_path / "old.onnx").run(None, proof.inputs)[0]
    np.testing.assert_allclose(proof.outputs["y"], before, rtol=1e-5, atol=1e-6)


def reshaping(path, shape):
    save(
        path,
        [
            helper.make_node("Reshape", ["x", "shape"], ["flat"], name="a"),
            helper.make_node("MatMul", ["flat", "w"], ["y"], name="b"),
        ],
        [value("x", [1, 2, 3])],
        [value("y", [1, 4])],
        [weight("w", 6, 4), numpy_helper.from_array(np.array(shape), "shape")],
    )


@pytest.mark.parametrize("shape", [[1, 6], [1, -1], [-1, 6], [0, 6]])
def test_a_batch_of_1_that_was_baked_in_is_freed_and_proven(tmp_path, shape):
    reshaping(tmp_path / "one.onnx", shape)

    package = export(str(tmp_path / "one.onnx"), tmp_path / "package")

    assert package.manifest.inputs[0].shape == ("batch", 2, 3)
    assert package.manifest.batch.invariant
    assert "tried at 1, 2 and 7" in said(package)


def test_a_batch_of_1_that_the_model_means_is_kept_and_said(tmp_path):
    save(  # the mean over the first dimension mixes the rows
        tmp_path / "one.onnx",
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1, name="a"),
            helper.make_node("Sub", ["x", "m"], ["d"], name="b"),
            helper.make_node("Add", ["d", "w"], ["y"], name="c"),
        ],
        [value("x", [1, 3])],
        [value("y", [1, 3])],
        [weight("w", 3)],
    )

    package = export(str(tmp_path / "one.onnx"), tmp_path / "package")

    assert package.manifest.inputs[0].shape == (1, 3)
    assert "the batch stays 1, as it was baked in" in said(package)


def test_a_batch_is_not_freed_where_an_output_has_another(tmp_path):
    reshaping(tmp_path / "one.onnx", [1, 6])
    model = onnx.load(tmp_path / "one.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5

    assert not free_batch.free(model)


def test_a_zipmap_is_left_out_and_its_labels_are_kept(iris, tmp_path):
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    names = np.array(["setosa", "versicolor", "virginica"])[iris[1]]
    model = to_onnx(LogisticRegression(max_iter=999).fit(iris[0], names), iris[0][:1])
    (tmp_path / "zip.onnx").write_bytes(model.SerializeToString())

    package = export(str(tmp_path / "zip.onnx"), tmp_path / "package")

    manifest = package.manifest
    assert manifest.labels == ("setosa", "versicolor", "virginica")
    assert [spec.datatype for spec in manifest.outputs] == ["BYTES", "FP32"]
    assert manifest.processing.output == ClassesOutput(tensor=manifest.outputs[1].name)
    assert zipmap.remove(onnx.load(package.model)) is None


def test_a_sequence_that_is_no_zipmap_is_refused_with_the_way_out(tmp_path):
    save(
        tmp_path / "sequence.onnx",
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"], name="a")],
        [value("x", ["N", 3])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )

    with pytest.raises(EngineError, match="which cannot be served") as told:
        export(str(tmp_path / "sequence.onnx"), tmp_path / "package")
    assert "must be tensors" in told.value.hint


def test_a_custom_operator_is_named_with_its_domain(tmp_path):
    save(
        tmp_path / "custom.onnx",
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="acme", name="a")],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
        domains=["acme"],
    )

    with pytest.raises(StepError, match="uses the operator 'acme:Frobnicate', which neither"):
        export(str(tmp_path / "custom.onnx"), tmp_path / "package")


def test_an_operator_that_the_standard_lacks_is_named(tmp_path):
    save(
        tmp_path / "unknown.onnx",
        [
            helper.make_node("Relu", ["x"], ["h"], name="a"),
            helper.make_node("Frobnicate", ["h"], ["y"], name="b"),
        ],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
    )

    with pytest.raises(StepError, match="uses the operator 'Frobnicate', which neither"):
        export(str(tmp_path / "unknown.onnx"), tmp_path / "package")


def test_a_graph_that_cannot_be_loaded_is_named_by_the_file_that_was_given(tmp_path):
    save(
        tmp_path / "circle.onnx",
        [
            helper.make_node("Relu", ["b"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="second"),
        ],
        [value("x", ["N", 3])],
        [value("a", ["N", 3])],
    )

    with pytest.raises(EngineError, match=r"circle\.onnx': .*not acyclic") as told:
        export(str(tmp_path / "circle.onnx"), tmp_path / "package")

    assert ".part" not in told.value.message


def test_an_opset_of_the_future_is_refused_by_its_number(tmp_path):
    save(
        tmp_path / "new.onnx",
        [helper.make_node("Relu", ["x"], ["y"], name="a")],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
        version=99,
    )

    with pytest.raises(StepError, match="is of opset 99, and the newest that is known here is"):
        export(str(tmp_path / "new.onnx"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_container_that_is_too_new_for_onnx_runtime_is_lowered(tmp_path):
    save(
        tmp_path / "ir.onnx",
        [helper.make_node("Relu", ["x"], ["y"], name="a")],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
        ir=99,
    )

    package = export(str(tmp_path / "ir.onnx"), tmp_path / "package")

    assert onnx.load(package.model).ir_version == 10


def stateful(path):
    """A recurrent network whose state goes in and comes out, with a branch on a scalar."""
    branches = [
        helper.make_graph(
            [helper.make_node("Mul", ["x", factor], [f"{name}_x"], name=name)],
            name,
            [],
            [value(f"{name}_x", None)],
            [numpy_helper.from_array(np.float32(number), factor)],
        )
        for name, factor, number in (("loud", "two", 2.0), ("plain", "one", 1.0))
    ]
    save(
        path,
        [
            helper.make_node("Equal", ["rate", "high"], ["is_high"], name="eq"),
            helper.make_node(
                "If", ["is_high"], ["scaled"], then_branch=branches[0], else_branch=branches[1]
            ),
            helper.make_node(
                "GRU", ["scaled", "w", "r", "", "", "state"], ["", "new_state"], hidden_size=4
            ),
        ],
        [
            value("x", [1, "N", 3]),
            value("state", [1, "N", 4]),
            value("rate", [], TensorProto.INT64),
        ],
        [value("new_state", [1, "N", 4])],
        [
            weight("w", 1, 12, 3),
            weight("r", 1, 12, 4),
            numpy_helper.from_array(np.int64(1), "high"),
        ],
    )


def test_a_model_with_a_state_and_a_scalar_is_served_whole(tmp_path):
    stateful(tmp_path / "gru.onnx")

    package = export(str(tmp_path / "gru.onnx"), tmp_path / "package")

    proof = golden.read(package.serve)
    assert proof.inputs["rate"].shape == ()
    assert proof.inputs["state"].shape == (1, 1, 4)
    assert not package.manifest.batch.invariant
    assert all(check.passed for check in verify(package.path))


def test_text_and_whole_numbers_in_and_several_outputs_out_make_a_package(tmp_path):
    save(
        tmp_path / "mixed.onnx",
        [
            helper.make_node("Identity", ["words"], ["same"], name="a"),
            helper.make_node("Cast", ["count"], ["real"], to=TensorProto.FLOAT, name="b"),
        ],
        [
            value("words", ["N", 1], TensorProto.STRING),
            value("count", ["N", 2], TensorProto.INT32),
        ],
        [value("same", ["N", 1], TensorProto.STRING), value("real", ["N", 2])],
    )

    package = export(str(tmp_path / "mixed.onnx"), tmp_path / "package")

    assert [spec.datatype for spec in package.manifest.inputs] == ["BYTES", "INT32"]
    assert [spec.name for spec in package.manifest.outputs] == ["same", "real"]
    assert package.manifest.batch.invariant


def test_weights_over_the_limit_lie_beside_the_model_and_are_hashed(tmp_path, monkeypatch):
    from mlserve_cli.graph import clean

    monkeypatch.setattr(clean, "LIMIT_BYTES", 4_000)
    save(
        tmp_path / "large.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="a")],
        [value("x", ["N", 30])],
        [value("y", ["N", 40])],
        [weight("w", 30, 40)],
    )

    package = export(str(tmp_path / "large.onnx"), tmp_path / "package")

    assert "serve/model.onnx.data" in package.manifest.files
    assert package.model.stat().st_size < 1000
    assert package.size_bytes > 4800
    assert all(check.passed for check in verify(package.path))


def test_a_graph_that_needs_nothing_is_not_touched(iris_onnx):
    model = onnx.load(iris_onnx)
    before = model.SerializeToString()

    assert repair.repair(model) == []
    assert model.SerializeToString() == before


def test_a_node_that_only_a_branch_reads_is_not_dead(tmp_path):
    stateful(tmp_path / "gru.onnx")
    model = onnx.load(tmp_path / "gru.onnx")
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], ["inner"], name="neg"))
    branch = model.graph.node[2].attribute[0].g
    branch.node[0].input[0] = "inner"

    repair.repair(model)

    assert "neg" in {node.name for node in model.graph.node}


@pytest.mark.parametrize("version", [23, 24])
@pytest.mark.parametrize("rows", [1, "length"])
def test_a_masked_attention_of_a_young_opset_answers_as_the_standard_says(tmp_path, version, rows):
    from onnx.reference import ReferenceEvaluator

    heads = ["N", 2, "length", 4]
    model = save(
        tmp_path / "attention.onnx",
        [helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], name="a")],
        [
            *(value(name, heads) for name in "qkv"),
            value("mask", ["N", 1, rows, "length"], TensorProto.BOOL),
        ],
        [value("y", heads)],
        version=version,
        ir=11,
    )

    package = export(str(tmp_path / "attention.onnx"), tmp_path / "package")

    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((3, 2, 5, 4)).astype(np.float32) for name in "qkv"}
    given["mask"] = rng.random((3, 1, 1 if rows == 1 else 5, 5)) < 0.6
    given["mask"][..., 0] = True
    engine = package.engine()
    found = engine.run(given)["y"]
    engine.close()
    np.testing.assert_allclose(
        found, ReferenceEvaluator(model).run(None, given)[0], rtol=1e-4, atol=1e-5
    )
    assert "were written out" in said(package)
    assert package.manifest.batch.invariant
