"""Dynamic int8: weights are stored in int8, activations are scaled while the model runs.

It needs no data, and it is at its best where weights are large and batches small. The scale of an
activation is that of the whole batch, so rows depend on their neighbours: such a package is
proven not to be batch-invariant, and is served one row at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import fusions, memory, requirements, result
from mlserve_cli.quantize.prepare import prepare, quietly
from mlserve_cli.quantize.selection import heavy
from mlserve_cli.runtime.manifest import Manifest

OPERATORS = ("MatMul", "Gemm", "Attention", "LSTM")
"""Not Conv: ConvInteger has no fast kernel in ONNX Runtime, and a ResNet so quantized runs at a
fifth of the speed of float."""


class DynamicStep:
    """Quantize the matrix products to int8; convolutions stay in float.

    exclude: names, or patterns with `*`, of matrix products to leave in float.
    """

    name = "quantize-dynamic"

    def __init__(self, *, exclude: Sequence[str] = ()) -> None:
        self._exclude = tuple(exclude)

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX model, is quantized already, or has no matrix product."""
        found = requirements.operators(parent)
        if not found.isdisjoint(OPERATORS):
            memory.require(parent, copies=memory.WEIGHTS)
            return
        if "Conv" in found:
            raise StepError(
                f"'{parent.path}' computes in convolutions, and dynamic int8 makes those slower.",
                hint="quantize it with the static method",
            )
        raise requirements.refuse(parent, found, OPERATORS)

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Write the model with int8 weights, take the source along."""
        import onnx

        with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as folder:
            progress.stage("preparing the float model")
            prepared = prepare(parent.model, Path(folder))
            progress.stage("writing the int8 model")
            model = onnx.load(prepared)
            nodes = heavy(model, OPERATORS, self._exclude)
            fusions.part_residuals(model)
            onnx.save(model, prepared)
            _write(prepared, draft.serve / parent.manifest.model, nodes)
        result.copy_source(parent, draft)
        facts = {"weights": "int8 per tensor", "exclude": list(self._exclude)}
        return result.change(parent, "int8-dynamic", facts)

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Some nodes really run in int8 on this machine; which ones is noted as evidence."""
        result.ensure_int8(draft, manifest)


def _write(prepared: Path, target: Path, nodes: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        with quietly():
            quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=list(OPERATORS),
                # The writer splits a Gemm into a MatMul of this name and an Add, then selects.
                nodes_to_quantize=[*nodes, *(f"{name}_MatMul" for name in nodes)],
                # A scale a column made a 4 x 512 MLP no more exact, and slower by 30 % at batch 1.
                per_channel=False,
                reduce_range=False,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    except Exception as error:  # the writer raises ValueError, AttributeError, AssertionError …
        raise StepError(f"the model cannot be quantized: {first_line(error)}.") from error
