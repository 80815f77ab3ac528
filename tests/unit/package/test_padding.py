"""The proof that zeros at the end of a row change nothing, for models where that is so or not."""

import hashlib

import msgspec
import numpy as np
import pytest

from mlserve_cli.package import padding
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.runtime.manifest import Manifest, read
from mlserve_cli.runtime.padding import Padding
from mlserve_cli.runtime.tensors import TensorSpec


class Engine:
    """Averages the numbers where the mask is one; or does something else with them."""

    inputs = (
        TensorSpec("ids", "FP32", ("batch", "length")),
        TensorSpec("mask", "INT64", ("batch", "length")),
    )
    outputs = (TensorSpec("mean", "FP32", ("batch", 1)),)

    def __init__(self, answer, outputs=outputs, inputs=inputs, limit=10_000):
        self.answer, self.outputs, self.inputs, self.limit = answer, outputs, inputs, limit
        self.lengths = []

    def run(self, tensors):
        ids, mask = tensors["ids"], tensors["mask"]
        self.lengths.append(ids.shape[1])
        if ids.shape[1] > self.limit:
            raise ValueError("no position embedding for that")
        return self.answer(ids, mask)


def masked(ids, mask):
    return {"mean": ((ids * mask).sum(1) / mask.sum(1))[:, None].astype(np.float32)}


def careless(ids, mask):
    return {"mean": ids.mean(1, keepdims=True)}


def real(rows=6, length=5):
    ids = np.random.default_rng(1).random((rows, length), np.float32) + 1
    return {"ids": ids, "mask": np.ones((rows, length), np.int64)}


def test_a_model_that_looks_at_its_mask_may_be_padded():
    engine = Engine(masked)

    proof = padding.prove(engine, real(), tolerance=1e-5)

    assert proof.harmless
    assert proof.dimensions == ("length",)
    assert proof.largest == 512 == max(engine.lengths)


def test_a_model_that_does_not_may_not_and_the_reason_says_so():
    proof = padding.prove(Engine(careless), real(), tolerance=1e-5)

    assert not proof.harmless
    assert proof.reason.startswith("filled up to 8, output 'mean' differs by ")


def test_nothing_is_padded_beyond_what_the_model_takes():
    proof = padding.prove(Engine(masked, limit=70), real(), tolerance=1e-5)

    assert proof.harmless
    assert proof.largest == 64


def test_outputs_with_a_length_of_their_own_are_compared_where_they_are_real():
    def states(ids, mask):
        return {"states": (ids * mask + 3 * (1 - mask)).astype(np.float32)}

    outputs = (TensorSpec("states", "FP32", ("batch", "length")),)

    assert padding.prove(Engine(states, outputs), real(), tolerance=1e-5).harmless


def test_an_output_that_does_not_grow_with_its_input_is_not_cut_to_nonsense():
    outputs = (TensorSpec("states", "FP32", ("batch", "length")),)
    engine = Engine(lambda ids, mask: {"states": ids[:, :3] * mask[:, :3]}, outputs)

    # It is the same at every size, so nothing is lost, whatever its name promises.
    assert padding.prove(engine, real(length=3), tolerance=1e-5).harmless


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (
            (Engine.inputs[0], TensorSpec("mask", "BYTES", ("batch", "length"))),
            Engine.outputs,
            "input 'mask' is text",
        ),
        (
            Engine.inputs,
            (TensorSpec("mean", "FP32", ("batch", "found")),),
            "output 'mean' has a size 'found', which no input has",
        ),
        (
            (Engine.inputs[0], TensorSpec("mask", "INT64", (1, "length"))),
            Engine.outputs,
            "the model has a fixed or missing batch dimension",
        ),
        (
            (Engine.inputs[0], TensorSpec("mask", "INT64", ("batch", "batch"))),
            Engine.outputs,
            "'batch' is the batch and a size of input 'mask', too",
        ),
    ],
)
def test_what_cannot_be_padded_is_not_tried(inputs, outputs, reason):
    engine = Engine(masked, outputs, inputs)

    proof = padding.prove(engine, real(), tolerance=1e-5)

    assert (proof.harmless, proof.reason) == (False, reason)
    assert engine.lengths == []


def test_a_model_of_fixed_sizes_needs_no_proof():
    inputs = tuple(TensorSpec(spec.name, spec.datatype, ("batch", 5)) for spec in Engine.inputs)

    assert padding.prove(Engine(masked, inputs=inputs), real(), tolerance=1e-5) is None


@pytest.mark.parametrize(("mask_matters", "harmless"), [(True, True), (False, False)])
def test_a_package_says_whether_its_model_may_be_padded(tmp_path, mask_matters, harmless):
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Mul", ["ids", "mask"], ["kept"]),
        helper.make_node(
            "ReduceSum" if mask_matters else "ReduceMean", ["kept"], ["score"], keepdims=0
        ),
    ]
    shape = ["batch", "length"]
    nodes[1].input.append("axes")
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, shape) for each in ("ids", "mask")],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 18)]
    sample = {
        "ids": np.random.default_rng(3).random((16, 5), np.float32) + 1,
        "mask": np.ones((16, 5), np.float32),
    }
    with create(tmp_path / "package") as draft:
        save(
            helper.make_model(graph, opset_imports=opset, ir_version=10), draft.serve / "model.onnx"
        )
        fields = {"name": "masked", "version": "1", "variant": "fp32", "inputs": (), "outputs": ()}
        sealed = finish(draft, Manifest(**fields), [sample])

    assert read(tmp_path / "package") == sealed
    assert sealed.padding.harmless is harmless
    assert (Padding.of(sealed) is not None) is harmless


def test_the_digest_of_packages_that_were_made_before_there_was_such_a_proof_still_holds(
    iris_package,
):
    plain = msgspec.to_builtins(iris_package().manifest)
    assert plain.pop("padding") is None
    assert plain.pop("precision") == "fp32"  # younger, and left out likewise
    digest = plain.pop("digest")

    canonical = msgspec.json.encode(plain, order="sorted")

    assert digest == "sha256:" + hashlib.sha256(canonical).hexdigest()
