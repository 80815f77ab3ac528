"""Static int8: the range of every activation is found with real data and written into the model.

`quantize` is our way from a prepared float model, calibration rows and a set of choices to an int8
model; the step makes a package of its result, or of that of another of the `quantizers`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import (
    attention,
    fusions,
    leftover,
    memory,
    qdq,
    quantizers,
    requirements,
    result,
    saturation,
    targets,
)
from mlserve_cli.quantize.bias_correction import Corrected, correct
from mlserve_cli.quantize.calibration import cache as caches
from mlserve_cli.quantize.calibration import review
from mlserve_cli.quantize.calibration.cache import RangeCache
from mlserve_cli.quantize.calibration.collection import Collected, collect
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import CalibrationRows, gather
from mlserve_cli.quantize.calibration.skeleton import outsource
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.leftover import Left
from mlserve_cli.quantize.prepare import prepare, quietly
from mlserve_cli.quantize.quantizers import Job, Quantizer
from mlserve_cli.quantize.saturation import Saturation
from mlserve_cli.quantize.selection import HEAVY, Selection, select
from mlserve_cli.quantize.smooth import Smoothed, smooth
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.training.curve import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """An int8 model, and what was done and found on the way to it.

    Quantizers that find ranges, smooth and correct by themselves leave those fields empty.
    """

    model: ModelProto
    collected: Collected | None = None
    smoothed: tuple[Smoothed, ...] = ()
    corrected: tuple[Corrected, ...] = ()
    saturation: tuple[Saturation, ...] = ()
    left: tuple[Left, ...] = ()
    training: History | None = None  # of a quantizer that trains
    facts: Mapping[str, Any] = field(default_factory=dict)  # of its own, for the lineage


def quantize(
    prepared: ModelProto | Path,
    calibration: CalibrationRows,
    choices: Choices,
    *,
    cache: RangeCache | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write `prepared` (by `prepare`; it is not changed) in int8, as `choices` say.

    Where it is the path of a file, its weights are not held while ranges are found: then only the
    session that runs the rows has them. Ranges that `cache` holds for the very same model, rows and
    method are taken from there. Raises `StepError` for what cannot be quantized, and where the
    model fails on the rows.
    """
    import onnx

    progress = progress or Silent()
    source = prepared if isinstance(prepared, Path) else None
    model = onnx.load(prepared) if isinstance(prepared, Path) else onnx.ModelProto()
    if not isinstance(prepared, Path):
        model.CopyFrom(prepared)
    size = prepared.stat().st_size if isinstance(prepared, Path) else model.ByteSize()
    selection = select(model, choices.exclude)
    left = leftover.find(model, selection)
    with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as name:
        folder = Path(name)
        smoothed: list[Smoothed] = []
        if choices.smooth:
            progress.stage("moving outliers of activations into weights")
            smoothed = smooth(
                model, selection.nodes, calibration, folder, reduce_range=choices.reduce_range
            )
            selection = select(model, choices.exclude)  # inputs have other names now
            if source is not None:
                source = folder / "smooth.onnx"
                onnx.save(model, source)
        key = _key(model, selection, calibration, choices) if cache else ""
        if source is not None:
            model = outsource(model, folder / "held.weights")
        memory.give_back(size)
        progress.stage("finding ranges with real data")
        collected = _ranges(model, selection, calibration, choices, folder, cache, key, progress)
        if source is not None:
            (folder / "held.weights").unlink()
            model = onnx.load(source)
        corrected: list[Corrected] = []
        if choices.bias_correction:
            progress.stage("correcting biases")
            corrected = correct(
                model,
                selection.nodes,
                collected.ranges,
                calibration,
                folder,
                reduce_range=choices.reduce_range,
            )
        progress.stage("writing the int8 model")
        memory.give_back(size)
        written = write(model, selection, collected.ranges, choices)
        memory.give_back(size)
        found = saturation.analyse(written, calibration, folder)
    return Quantized(
        model=written,
        collected=collected,
        smoothed=tuple(smoothed),
        corrected=tuple(corrected),
        saturation=tuple(found),
        left=tuple(left),
    )


def _key(
    model: ModelProto, selection: Selection, calibration: CalibrationRows, choices: Choices
) -> str:
    method: str = choices.calibrator
    if method == "percentile":
        method += f" {choices.percentile!r}"
    return caches.key(model, calibration, method, selection.tensors)


def _ranges(
    model: ModelProto,
    selection: Selection,
    calibration: CalibrationRows,
    choices: Choices,
    folder: Path,
    cache: RangeCache | None,
    key: str,
    progress: Progress,
) -> Collected:
    found = cache.read(key, selection.tensors) if cache else None
    if found is None:
        found = collect(
            model,
            selection.tensors,
            calibration,
            folder,
            calibrator=choices.calibrator,
            percentile=choices.percentile,
            progress=progress,
        )
        if cache:
            cache.write(key, found)
    return found


def write(
    prepared: ModelProto,
    selection: Selection,
    found: Mapping[str, Range],
    choices: Choices | None = None,
) -> ModelProto:
    """The prepared model with QuantizeLinear and DequantizeLinear around chosen nodes."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    choices = choices or Choices()
    data = TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(item.low), np.float32(item.high)) for name, item in found.items()},
    )
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    try:
        with quietly():
            quantizer: Any = QDQQuantizer(
                model,
                per_channel=True,  # free for convolutions, and depthwise ones need it
                reduce_range=choices.reduce_range,  # of weights; activations keep their 8 bits
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8 if choices.form == "u8s8" else QuantType.QInt8,
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
            qdq.spare(quantizer.model.model, selection.nodes)
            fusions.part_residuals(quantizer.model.model)
            quantizer.model.topological_sort()  # it appends at the end; the standard wants order
    except Exception as error:  # the writer raises ValueError, AttributeError, AssertionError …
        raise StepError(f"the model cannot be quantized: {first_line(error)}.") from error
    quantized: ModelProto = quantizer.model.model
    return quantized


class StaticStep:
    """Quantize to int8 with ranges from `calibration`, batches of real rows of any sizes.

    exclude: names, or patterns with `*`, of convolutions and matrix products to leave in float;
        the same as in `choices`.
    cache: where ranges that were found before are kept; None looks nowhere.
    quantizer: who writes the model: a name in `quantizers.QUANTIZERS`, or an object of that kind.
    """

    name = "quantize-static"

    def __init__(
        self,
        calibration: Iterable[Tensors],
        *,
        choices: Choices | None = None,
        exclude: Iterable[str] = (),
        cache: RangeCache | None = None,
        quantizer: str | Quantizer = quantizers.DEFAULT,
    ) -> None:
        self._quantizer = quantizers.find(quantizer) if isinstance(quantizer, str) else quantizer
        self._calibration = calibration
        self._choices = choices or Choices(exclude=tuple(exclude))
        self._cache = cache
        self._done: Quantized | None = None
        self._review: review.Review | None = None

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX model, is quantized already, or has nothing to quantize."""
        found = requirements.operators(parent)
        if found.isdisjoint(HEAVY):
            raise requirements.refuse(parent, found, HEAVY)
        memory.require(parent, copies=memory.STATIC)
        self._quantizer.requires(parent, self._choices)

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Gather the rows, write the quantized model, take the source along."""
        from mlserve_cli.graph import clean

        with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as name:
            folder = Path(name)
            progress.stage("preparing the float model")
            path = prepare(parent.model, folder)
            memory.give_back(path.stat().st_size)
            progress.stage("reading the calibration rows")
            rows = gather(
                self._calibration,
                folder / "rows",
                inputs=parent.manifest.inputs,
                progress=progress,
            )
            done = self._quantizer.quantize(
                Job(
                    parent=parent,
                    path=path,
                    rows=rows,
                    choices=self._choices,
                    folder=folder,
                    cache=self._cache,
                    progress=progress,
                )
            )
            progress.stage("looking at the calibration rows")
            self._review = review.review(parent, rows, done.collected)
            # ONNX Runtime infers them again. Where it need not, it fuses additions into
            # SkipLayerNormalization, whose kernel is slower: an eighth of an encoder's time.
            del done.model.graph.value_info[:]
            model, fused = done.model, 0
            here = parent.manifest.engine == "onnxruntime" and self._choices.form == "u8s8"
            if self._choices.fuse is not False and here:
                progress.stage("fusing attention")
                timed = () if self._choices.fuse else attention.usual(parent)
                model, fused = attention.fused(model, rows, folder, timed=timed)
        clean.save(model, draft.serve / parent.manifest.model)
        for sentence in (*self._review.warnings, *leftover.sentences(done.left)):
            progress.say(sentence)
        result.copy_source(parent, draft)
        self._done = done
        facts = {"quantizer": self._quantizer.name} | self._choices.facts() | dict(done.facts)
        facts |= {
            "calibration_rows": rows.count,
            "calibration_digest": f"sha256:{rows.digest}",
        }
        if done.collected and self._choices.smooth:
            facts["smoothed"] = sum(len(item.nodes) for item in done.smoothed)
        if done.collected and self._choices.bias_correction:
            facts["corrected"] = len(done.corrected)
        if fused:
            facts["fused_attention"] = fused
        facts["exclude"] = list(self._choices.exclude)  # last, where a person looks for it
        return result.change(
            parent,
            "int8-qat" if done.training else "int8-static",
            facts,
            sets=targets.proven(self._choices, done.saturation),
            libraries=self._quantizer.libraries,
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Some nodes really run in int8 on this machine; which ones is noted as evidence."""
        result.ensure_int8(draft, manifest)
        if self._done is None or self._review is None:
            return
        package = Package(draft.path, manifest)
        package.add_evidence("calibration", self._review.facts())
        package.add_evidence("saturation", targets.evidence(self._choices, self._done.saturation))
        if self._done.training:
            measured = self._done.training.facts()
            package.add_evidence(measured.pop("kind"), measured)
        if self._done.left:
            facts = [msgspec.to_builtins(item) for item in self._done.left]
            summary = " ".join(leftover.sentences(self._done.left))
            package.add_evidence("left-in-float", {"summary": summary, "nodes": facts})
        for kind, done in (("smooth", self._done.smoothed), ("bias", self._done.corrected)):
            if done:
                package.add_evidence(kind, {"layers": [msgspec.to_builtins(item) for item in done]})
