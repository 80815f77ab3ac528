"""Every node of the graph that ONNX Runtime runs on this machine, with the time that it takes."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph import kernels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mlserve_cli.runtime.tensors import Tensors

Kind = Literal["int8", "float", "conversion", "other"]

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
"""Between int8 and float; each is time that an int8 kernel on both sides would save."""

_EVENT = "_kernel_time"  # what ONNX Runtime appends to a node's name in a profile
_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the optimized graph. microseconds: its median over the runs; outputs: its names.

    int8: how many heavy products it is, where it computes in int8; "float": a heavy product in
    float; "conversion": between the two; "other": all the rest.
    """

    name: str
    operator: str
    kind: Kind
    microseconds: float
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The nodes in the order that they run in, and the graph that they stand in."""

    nodes: tuple[Node, ...]
    runs: int
    graph: ModelProto

    @property
    def total_us(self) -> float:
        """Of all nodes; what lies between them is ONNX Runtime's own and not counted."""
        return sum(node.microseconds for node in self.nodes)

    def share(self, kind: Kind) -> float:
        """The part of the time that nodes of a kind take."""
        spent = sum(node.microseconds for node in self.nodes if node.kind == kind)
        return spent / self.total_us if self.total_us else 0.0


def profile(model: Path, feed: Tensors, *, runs: int, threads: int) -> Profile:
    """Run `feed` through `model` and read what each node took. Raises `StepError`."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="mlserve-explain-") as place:
        folder = Path(place)
        optimized = folder / "optimized.onnx"
        try:
            session = kernels.session(
                model, optimized=optimized, profile=folder / "profile", threads=threads
            )
            for _ in range(_WARM_UP + runs):
                session.run(None, feed)
            written = Path(session.end_profiling())
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise StepError(f"'{model}' cannot be profiled: {first_line(error)}.") from error
        times = _times(json.loads(written.read_text()))
        graph = onnx.load(optimized, load_external_data=False)
    return Profile(
        nodes=tuple(_node(node, times) for node in graph.graph.node), runs=runs, graph=graph
    )


def kind_of(operator: str) -> Kind:
    """What a node of that type is to somebody who looks for int8."""
    if operator in kernels.INT8:
        return "int8"
    if operator in kernels.FLOAT:
        return "float"
    return "conversion" if operator in CONVERSIONS else "other"


def _node(node: NodeProto, times: dict[tuple[str, str], float]) -> Node:
    return Node(
        name=node.name,
        operator=node.op_type,
        kind=kind_of(node.op_type),
        microseconds=times.get((node.name, node.op_type), 0.0),
        outputs=tuple(name for name in node.output if name),
    )


def _times(events: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """(name, type) → the median of its microseconds, without the first runs.

    A node inside a loop stands in a run several times; its visits are added up to runs only where
    it has the same number in each, which medians of visits stand for well enough.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            key = (event["name"].removesuffix(_EVENT), event["args"]["op_name"])
            found[key].append(float(event["dur"]))
    return {key: statistics.median(values[_WARM_UP:] or values) for key, values in found.items()}
