"""fp16: half the size, for GPUs and ARM. Inputs and outputs stay float32.

16-bit floats end at 65,504. Nodes whose values come near that on real rows stay in float32, the
nodes that read them too. x86 CPUs compute fp16 by converting to float32 and back: it is no faster
there, and where that makes it slower the gate on speed refuses it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package import file_size
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import memory, naming, requirements, result
from mlserve_cli.quantize.calibration.collection import extremes
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare, quietly
from mlserve_cli.quantize.weights import attribute, names_read
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST = 65504.0
MARGIN = 4
"""Other rows may be larger than those that were seen."""

TOLERANCE = 1e-2
"""10 bits of mantissa, through many layers, on kernels that sum in other orders."""


class HalfStep:
    """Convert to 16-bit floats. calibration: rows to find large values with, else the package's
    golden rows. exclude: names of nodes to leave in float32."""

    name = "quantize-fp16"

    def __init__(
        self, calibration: Iterable[Tensors] | None = None, *, exclude: Iterable[str] = ()
    ) -> None:
        self._calibration = calibration
        self._exclude = tuple(exclude)

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX model in float."""
        requirements.operators(parent)
        memory.require(parent, copies=memory.WEIGHTS)

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Write the model in 16 bits, take the source along."""
        import onnx

        from mlserve_cli.graph import clean

        with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as name:
            folder = Path(name)
            progress.stage("preparing the float model")
            model = onnx.load(prepare(parent.model, folder))
            _check_names(model, self._exclude)
            progress.stage("looking for values that 16 bits cannot hold")
            batches = self._calibration or [golden.read(parent.serve).inputs]
            rows = gather(
                batches, folder / "rows", inputs=parent.manifest.inputs, progress=progress
            )
            found = extremes(model, float_tensors(model), rows, folder, progress=progress)
        kept = overflowing(model, found.ranges)
        if kept:
            progress.say(
                f"kept in float32, where values come near {LARGEST:,.0f}: {', '.join(kept[:6])}"
                + (f" and {len(kept) - 6} more." if len(kept) > 6 else ".")
            )
        progress.stage("writing the fp16 model")
        written = write(model, [*kept, *self._exclude])
        clean.save(written, draft.serve / parent.manifest.model)
        result.copy_source(parent, draft)
        return Change(
            variant=naming.variant(parent.manifest.variant, "fp16"),
            parameters={"float32": kept, "rows": rows.count, "exclude": list(self._exclude)},
            libraries=("onnx", "onnxruntime"),
            manifest={"tolerance": max(TOLERANCE, parent.manifest.tolerance)},
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Inputs and outputs are the parent's, and the weights are half as large."""
        sides = (
            (parent.manifest.inputs, manifest.inputs),
            (parent.manifest.outputs, manifest.outputs),
        )
        for before, after in sides:
            if [(s.name, s.datatype) for s in before] != [(s.name, s.datatype) for s in after]:
                raise StepError("the fp16 model has another signature than its parent.")
        package = Package(draft.path, manifest)
        package.add_evidence(
            "weights",
            {
                "summary": f"16-bit floats; {file_size.text(parent.size_bytes)} became "
                f"{file_size.text(package.size_bytes)}"
            },
        )


def float_tensors(model: ModelProto) -> list[str]:
    """The float32 tensors that the nodes of the graph make, where their type is known."""
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*model.graph.value_info, *model.graph.output)
    }
    return [
        name for node in model.graph.node for name in node.output if name and types.get(name) == 1
    ]


def overflowing(model: ModelProto, found: Mapping[str, Range]) -> list[str]:
    """The nodes that make or read a tensor whose values come near the end of 16-bit floats."""
    large = {
        name
        for name, item in found.items()
        # Not finite: a mask of -inf, which 16 bits can hold; but what reads it is left alone, too.
        if not max(abs(item.low), abs(item.high)) < LARGEST / MARGIN
    }
    return [node.name for node in model.graph.node if large & {*node.input, *node.output}]


def write(model: ModelProto, keep: Iterable[str]) -> ModelProto:
    """`model` in 16-bit floats but for its inputs, its outputs and the nodes in `keep`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = set(keep)
    floats = set(float_tensors(model))
    places = {
        (node.name, index)
        for node in model.graph.node
        if node.name in kept
        for index, name in enumerate(node.output)
        if name in floats
    }
    try:
        with quietly():
            written: ModelProto = convert_float_to_float16(
                model, keep_io_types=True, node_block_list=sorted(kept)
            )
    except Exception as error:  # the converter asserts and raises as it likes
        raise StepError(f"the model cannot be written in fp16: {first_line(error)}.") from error
    _join(written, places)
    return written


def _join(model: ModelProto, places: Collection[tuple[str, int]]) -> None:
    """Between two nodes that stay in float32 the converter puts a cast to 16 bits and one back,
    where the very value overflows that both were kept for: the second reads the first's own.

    places: the float32 outputs of the nodes that stay, as node and index.
    """
    from onnx import TensorProto

    outputs = {item.name for item in model.graph.output}
    casts = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "Cast" and node.output[0] not in outputs
    }

    wide = {
        name
        for node in model.graph.node
        for index, name in enumerate(node.output)
        if (node.name, index) in places
    }

    def to(node: NodeProto) -> int:
        return int(attribute(node, "to", 0))

    direct = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if to(node) == TensorProto.FLOAT
        and node.input[0] in casts
        and to(casts[node.input[0]]) == TensorProto.FLOAT16
        and casts[node.input[0]].input[0] in wide
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in direct:
                node.input[index] = direct[name]
    while unread := _unread_casts(model, outputs):
        for node in unread:
            model.graph.node.remove(node)


def _unread_casts(model: ModelProto, outputs: set[str]) -> list[NodeProto]:
    read = names_read(model.graph) | outputs
    return [
        node for node in model.graph.node if node.op_type == "Cast" and node.output[0] not in read
    ]


def _check_names(model: ModelProto, names: Iterable[str]) -> None:
    known = {node.name for node in model.graph.node}
    for name in names:
        if name not in known:
            raise StepError(
                f"'{name}' cannot be excluded: no node has that name.",
                hint=f"they are {', '.join(sorted(known)[:20])}{' …' if len(known) > 20 else ''}",
            )
