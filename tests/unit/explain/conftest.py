"""A small network with everything that int8 meets: convolutions, a head, attention's product."""

import numpy as np
import pytest

from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import StaticStep
from mlserve_cli.runtime.manifest import Manifest


@pytest.fixture(scope="session")
def rows():
    return {"x": np.random.default_rng(5).normal(size=(16, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="session")
def parent(tmp_path_factory, rows):
    """Two convolutions, a product of two activations, and a head: x (batch, 3, 16, 16) → y."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(1)

    def weight(name, *shape):
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ar"], name="relu"),
        helper.make_node("Conv", ["ar", "w2"], ["b"], name="second", pads=[1] * 4),
        helper.make_node("MatMul", ["b", "b"], ["scores"], name="scores"),
        helper.make_node("GlobalAveragePool", ["scores"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w3"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3), weight("w3", 8, 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    place = tmp_path_factory.mktemp("explain") / "float"
    with create(place) as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(name="net", version="1", variant="fp32", inputs=(), outputs=())
        finish(draft, manifest, [rows])
    return Package.open(place)


@pytest.fixture(scope="session")
def int8(parent, rows):
    """The same in int8, but for the second convolution."""
    place = parent.path.with_name("int8")
    return steps.run(
        StaticStep([rows], exclude=["second"]), parent, place, sample=[rows], progress=Silent()
    )
