"""Static int8: the range of every activation is found with real data and written into the model.

The form is u8s8: unsigned activations, signed weights with a scale per output channel. It is the
one that x86 multiplies at full speed (VNNI's VPDPBUSD takes u8 by s8; ONNX Runtime's s8s8 default
runs slower than that, and on some CPUs slower than float).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import ranges, requirements, result
from mlserve_cli.quantize.prepare import prepare, quietly
from mlserve_cli.quantize.ranges import Range
from mlserve_cli.quantize.selection import HEAVY, Selection, select
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto


class StaticStep:
    """Quantize to int8 with ranges from `calibration`, batches of real rows of any sizes.

    exclude: names, or patterns with `*`, of convolutions and matrix products to leave in float.
    """

    name = "quantize-static"

    def __init__(self, calibration: Iterable[Tensors], *, exclude: Sequence[str] = ()) -> None:
        self._calibration = calibration
        self._exclude = tuple(exclude)

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX model, is quantized already, or has nothing to quantize."""
        found = requirements.operators(parent)
        if found.isdisjoint(HEAVY):
            raise requirements.refuse(parent, found, HEAVY)

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Collect ranges in bounded memory, write the quantized model, take the source along."""
        import onnx

        with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as folder:
            progress.stage("preparing the float model")
            prepared = prepare(parent.model, Path(folder))
            selection = select(onnx.load(prepared), self._exclude)
            progress.stage("finding ranges with real data")
            collected = ranges.collect(
                prepared,
                selection.tensors,
                self._calibration,
                inputs=parent.manifest.inputs,
                progress=progress,
            )
            _check_usable(collected.ranges)
            progress.stage("writing the int8 model")
            quantized = write(prepared, selection, collected.ranges)
            onnx.save(quantized, draft.serve / parent.manifest.model)
        result.copy_source(parent, draft)
        facts = {
            "activations": "uint8",
            "weights": "int8 per channel",
            "calibration_rows": collected.rows,
        }
        return result.change(parent, "int8-static", facts, self._exclude)

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Some nodes really run in int8 on this machine; which ones is noted as evidence."""
        result.ensure_int8(draft, manifest)


def write(prepared: Path, selection: Selection, found: Mapping[str, Range]) -> ModelProto:
    """The model at `prepared` with QuantizeLinear and DequantizeLinear around chosen nodes."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(item.low), np.float32(item.high)) for name, item in found.items()},
    )
    model = onnx.load(prepared)
    try:
        with quietly():
            quantizer: Any = QDQQuantizer(
                model,
                per_channel=True,  # free for convolutions, and depthwise ones need it
                reduce_range=False,  # seven bits are for x86 without VNNI
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=data,
                nodes_to_quantize=list(selection.nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=sorted(
                    {node.op_type for node in model.graph.node if node.name in selection.nodes}
                ),
                # Asymmetric, so that the cut at zero of a Relu is the tensor's own lower end and
                # the node goes away: symmetric ones kept all 17 Relus of a residual net, each
                # between two conversions, and gave up a quarter of the speed.
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            mark = quantizer.quantize_activation_tensor
            quantizer.quantize_activation_tensor = lambda name: (
                None if name in selection.float_outputs else mark(name)
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()  # it appends at the end; the standard wants order
    except Exception as error:  # the writer raises ValueError, AttributeError, AssertionError …
        raise StepError(f"the model cannot be quantized: {first_line(error)}.") from error
    quantized: ModelProto = quantizer.model.model
    return quantized


def _check_usable(found: Mapping[str, Range]) -> None:
    for name, item in found.items():
        if not item.usable:
            raise StepError(
                f"tensor '{name}' ranges from {item.low:g} to {item.high:g} on the calibration "
                "data, which 8 bits cannot cover.",
                hint="exclude the node that makes or takes it, or mend the model or the data",
            )
