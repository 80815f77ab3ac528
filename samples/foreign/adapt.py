"""Turn Silero's file so that a row is a row: its memory's batch to the front, its rate fixed.

The network itself is taken as it is, with its If and its LSTM; writes speech.onnx beside this file.
With --flat each If is decided here and now, since the rate is known: a branch takes its place.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RATE_HZ = 16_000
CONTEXT, WINDOW = 64, 512  # samples of before and of now: what the network takes at 16 kHz
MEMORY = 128  # of the LSTM: its output and its cell
TARGET = Path(__file__).with_name("speech.onnx")


def source() -> Path:
    """The file inside silero-vad, found without importing it, which would import torch."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("silero-vad is missing: python -m pip install --no-deps silero-vad")
    return Path(found.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


def adapted(model: onnx.ModelProto) -> onnx.ModelProto:
    """audio (batch, 576), memory (batch, 2, 128) → speech (batch, 1), next_memory (batch, 2, 128).

    The file takes `state` as (2, batch, 128): a server that puts rows of several callers together
    does so along the first dimension, so the two change places on the way in and out. `sr`, the
    sampling rate, is one number for all rows and becomes a constant.
    """
    graph = model.graph
    del graph.input[:], graph.output[:]
    sound, memory = ["batch", CONTEXT + WINDOW], ["batch", 2, MEMORY]
    for side, name, shape in (
        (graph.input, "audio", sound),
        (graph.input, "memory", memory),
        (graph.output, "speech", ["batch", 1]),
        (graph.output, "next_memory", memory),
    ):
        side.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph.initializer.append(numpy_helper.from_array(np.array(RATE_HZ, np.int64), "sr"))
    before = [
        helper.make_node("Identity", ["audio"], ["input"]),
        helper.make_node("Transpose", ["memory"], ["state"], perm=[1, 0, 2]),
    ]
    after = [
        helper.make_node("Identity", ["output"], ["speech"]),
        helper.make_node("Transpose", ["stateN"], ["next_memory"], perm=[1, 0, 2]),
    ]
    return _with_nodes(model, [*before, *graph.node, *after])


def flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every If decided for good: run once to see which branch is taken, which then takes its place.

    One that depends on the number of rows stays. Names in branches are the graph's own, so that
    nothing has to be renamed.
    """
    while chosen := {name: taken for name, taken in conditions(model).items() if taken is not None}:
        nodes = []
        for node in model.graph.node:
            if node.op_type != "If" or node.input[0] not in chosen:
                nodes.append(node)
                continue
            wanted = "then_branch" if chosen[node.input[0]] else "else_branch"
            branch = next(item.g for item in node.attribute if item.name == wanted)
            nodes += branch.node
            nodes += [
                helper.make_node("Identity", [inside.name], [outside])
                for inside, outside in zip(branch.output, node.output, strict=True)
            ]
        model = _with_nodes(model, nodes)
    # Weights that were Constant nodes inside a branch are initializers outside of it.
    used = read_by(model.graph)
    computed = []
    for node in model.graph.node:
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            computed.append(node)
        elif node.output[0] in used:
            tensor = onnx.TensorProto.FromString(node.attribute[0].t.SerializeToString())
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
    model = _with_nodes(model, computed)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def read_by(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph's nodes read, and the nodes of their branches."""
    names = set()
    for node in graph.node:
        names |= set(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= read_by(attribute.g) | {output.name for output in attribute.g.output}
    return names


def conditions(model: onnx.ModelProto) -> dict[str, bool | None]:
    """What the condition of each If is, None where that depends on the number of rows."""
    names = [node.input[0] for node in model.graph.node if node.op_type == "If"]
    if not names:
        return {}
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    known = {output.name for output in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.BOOL, None)
        for name in dict.fromkeys(names)
        if name not in known
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # that some weights are used by nobody is no news here
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = []
    for rows in (1, 3):
        feed = {
            "audio": np.zeros((rows, CONTEXT + WINDOW), np.float32),
            "memory": np.zeros((rows, 2, MEMORY), np.float32),
        }
        found.append([bool(value.all()) for value in session.run(names, feed)])
    return {
        name: one if one == three else None for name, one, three in zip(names, *found, strict=True)
    }


def _with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flat", action="store_true", help="decide every If now")
    wanted = parser.parse_args()
    model = adapted(onnx.load(source()))
    if wanted.flat:
        model = flat(model)
    onnx.checker.check_model(model)
    onnx.save(model, TARGET)
    print(f"{TARGET.name} written, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
