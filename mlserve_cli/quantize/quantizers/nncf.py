"""NNCF: min-max or quantile ranges, SmoothQuant and bias correction of its own, on ONNX files.

It decides by itself which tensors become int8. Its signed activations are written anew as unsigned
where the form asks for that, which changes no value (see `qdq`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, first_line, needs_extra
from mlserve_cli.package.package import Package
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.prepare import quietly
from mlserve_cli.quantize.quantizers.finishing import finish
from mlserve_cli.quantize.quantizers.quantizer import Job, refuse, require_library
from mlserve_cli.quantize.selection import HEAVY, heavy
from mlserve_cli.quantize.weights import Weights
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.quantize.static import Quantized

BATCH = 8
"""Rows at a time; ranges are extremes over all of them, so its size changes no result but speed."""

PURPOSE = "quantize with NNCF"


class NncfQuantizer:
    """`nncf.quantize` of an ONNX graph; OpenVINO is not needed."""

    name = "nncf"
    libraries = ("nncf",)

    def requires(self, parent: Package, choices: Choices) -> None:
        """Refuse the calibrators that it has not."""
        refuse(
            self.name,
            [
                (
                    choices.calibrator not in ("minmax", "percentile"),
                    f"has no calibrator '{choices.calibrator}': it has minmax and percentile",
                )
            ],
        )
        require_library("nncf", "nncf", PURPOSE)

    def quantize(self, job: Job) -> Quantized:
        """Let NNCF quantize the graph, then bring it to ONNX Runtime's form."""
        prepared = job.prepared
        kept = set(heavy(prepared, HEAVY, job.choices.exclude))
        ignored = [name for name in heavy(prepared, HEAVY) if name not in kept]
        items: list[Tensors] = list(job.rows.parts(BATCH))
        job.progress.stage("quantizing with NNCF")
        with _alone(), needs_extra("nncf", PURPOSE):
            import nncf

            try:
                written: ModelProto = nncf.quantize(
                    prepared,
                    nncf.Dataset(items),
                    subset_size=len(items),
                    preset=nncf.QuantizationPreset.MIXED,  # activations with a zero point
                    model_type=nncf.ModelType.TRANSFORMER if _attends(prepared) else None,
                    ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
                    fast_bias_correction=True,
                    advanced_parameters=_parameters(job.choices),
                )
            except Exception as error:  # its own errors, and those of onnx, numpy, ONNX Runtime
                raise StepError(f"NNCF cannot quantize the model: {first_line(error)}.") from error
        return finish(written, job)


def _parameters(choices: Choices) -> Any:
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization import range_estimator as ranges

    estimator = ranges.RangeEstimatorParametersSet.MINMAX
    if choices.calibrator == "percentile":
        share = (1 - choices.percentile / 100) / 2  # at each end, as ours
        quantile, largest = ranges.StatisticsType.QUANTILE, ranges.AggregatorType.MAX
        estimator = ranges.RangeEstimatorParameters(
            min=ranges.StatisticsCollectorParameters(
                quantile, ranges.AggregatorType.MIN, quantile_outlier_prob=share
            ),
            max=ranges.StatisticsCollectorParameters(
                quantile, largest, quantile_outlier_prob=share
            ),
        )
    smooth = advanced.AdvancedSmoothQuantParameters()
    if not choices.smooth:
        smooth = advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    fix = advanced.OverflowFix
    return advanced.AdvancedQuantizationParameters(
        overflow_fix=fix.ENABLE if choices.reduce_range else fix.DISABLE,
        disable_bias_correction=not choices.bias_correction,
        activations_range_estimator_params=estimator,
        smooth_quant_alphas=smooth,
    )


def _attends(model: ModelProto) -> bool:
    """Whether it is a transformer: the product of two activations is attention."""
    weights = Weights(model)
    return any(
        node.op_type == "MatMul" and not any(name in weights for name in node.input)
        for node in model.graph.node
    )


@contextmanager
def _alone() -> Iterator[None]:
    """NNCF without its bars and log lines, and without telling its makers of each use.

    It sends an event to Google Analytics unless this variable is set when it is imported.
    """
    os.environ.setdefault("NNCF_CI", "1")
    nowhere = io.StringIO()
    with quietly(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
