"""A small convolutional network with random weights: more than 2 ms a row, in batches as well."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest

SHAPE = (3, 64, 64)
"""Of one picture; 48 KiB, so that the network and not the loopback takes the time."""

CHANNELS = (3, 64, 128, *[128] * 5)
"""Into the first convolution, and out of each; the second and third halve the size."""


def make(folder: Path, name: str, *, engine: str = "onnxruntime") -> Package:
    """A package of it: convolutions of 3 × 3 at full, half and a quarter of the size, a mean."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer, (before, after) in enumerate(pairwise(CHANNELS)):
        kernel = rng.normal(size=(after, before, 3, 3)) / np.sqrt(before * 9)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{layer}"))
        stride = 2 if layer in (1, 2) else 1
        nodes += [
            helper.make_node(
                "Conv",
                [last, f"w{layer}"],
                [f"c{layer}"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        last = f"r{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with create(folder / name) as draft:
        save(model, draft.serve / "model.onnx")
        manifest = Manifest(
            name=name, version="1", variant="fp32", engine=engine, inputs=(), outputs=()
        )
        finish(draft, manifest, [{"x": rng.normal(size=(32, *SHAPE)).astype(np.float32)}])
    return Package.open(folder / name)
