"""The models that the crowd asks, and what their engines answer.

`tiny` has two versions and runs on the event loop; `slow` takes milliseconds on a thread, and one
of its inputs can be poison.
"""

import itertools
from pathlib import Path

import numpy as np

FACTORS = {"1": 2.0, "2": 3.0}

POISON = 9


def write_slow(path):
    """Milliseconds of arithmetic, and a table that `pick` must point into."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(11)
    sizes = (16, 1024, 1024, 3)
    nodes, weights, last = [], [numpy_helper.from_array(np.arange(4.0).astype("f4"), "table")], "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        matrix = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    nodes[-1].output[0] = "y"
    nodes.append(helper.make_node("Gather", ["table", "pick"], ["picked"]))
    graph = helper.make_graph(
        nodes,
        "slow",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]]),
            helper.make_tensor_value_info("pick", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sizes[-1]]),
            helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["batch"]),
        ],
        weights,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def write_scaled(path, factor, width=4):
    """x (batch, width) → y: x times a factor, by which its version is known."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def write_package(root: Path, name, version, file: Path, sample):
    """A package of an ONNX file at root/name/version."""
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.runtime.manifest import Manifest

    with create(root / name / version) as draft:
        (draft.serve / "model.onnx").write_bytes(file.read_bytes())
        manifest = Manifest(name=name, version=version, variant="fp32", inputs=(), outputs=())
        finish(draft, manifest, [sample])


def write_models(root: Path, scratch: Path):
    """A repository of `tiny` and `slow`."""
    file = scratch / "model.onnx"
    for version, factor in FACTORS.items():
        write_scaled(file, factor)
        write_package(root, "tiny", version, file, tiny_rows(np.arange(16)))
    write_slow(file)
    write_package(root, "slow", "1", file, slow_rows(np.arange(16)))


def slow_rows(seeds):
    seeds = np.asarray(seeds)
    x = np.sin(np.outer(seeds + 1, np.arange(1, 17))).astype(np.float32)
    return {"x": x, "pick": (seeds % 4).astype(np.int64)}


def tiny_rows(seeds):
    return {"x": np.sin(np.outer(np.asarray(seeds) + 1, np.arange(1, 5))).astype(np.float32)}


class Expected:
    """What the engine of a version answers, in this process."""

    def __init__(self, models: Path):
        from mlserve_cli.package.package import Package

        self._engine = Package.open(models / "slow" / "1").engine()

    def __call__(self, name, version, tensors):
        if name == "slow":
            return self._engine.run(tensors)
        return {"y": tensors["x"] * np.float32(FACTORS[version])}

    def close(self):
        self._engine.close()
