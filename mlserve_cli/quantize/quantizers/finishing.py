"""The last part of every foreign quantizer: its graph in the form that ONNX Runtime runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.quantize import fusions, qdq, saturation
from mlserve_cli.quantize.calibration.collection import extremes
from mlserve_cli.quantize.quantizers.quantizer import Job

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.quantize.static import Quantized


def finish(written: ModelProto, job: Job) -> Quantized:
    """Settle a QDQ model, and give scales to what ONNX Runtime would else compute in float.

    Those scales are the extremes over the same rows, on the model as it was quantized.
    """
    from mlserve_cli.quantize.static import Quantized

    model = qdq.settle(written, job.choices.form)
    bare = qdq.unscaled(model)
    if bare:
        job.progress.stage("finding the ranges that ONNX Runtime needs beside")
        found = extremes(model, bare, job.rows, job.folder, progress=job.progress)
        qdq.scale_outputs(model, found.ranges)
        model = qdq.settle(model, job.choices.form)
    fusions.part_residuals(model)
    return Quantized(model=model, saturation=tuple(saturation.analyse(model, job.rows, job.folder)))
