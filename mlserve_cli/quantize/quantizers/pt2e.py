"""Neural Compressor's torch side: PT2E static int8 of a package that has its module in `source/`.

Its release for today's torch holds nothing for ONNX, so the module is exported by torch, observed
and converted there, and written as ONNX with QuantizeLinear and DequantizeLinear. It places scales
for oneDNN's fused kernels; those that ONNX Runtime needs beside are found on the same rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import MlserveError, StepError, first_line, needs_extra
from mlserve_cli.package.package import Package
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.prepare import quietly
from mlserve_cli.quantize.quantizers.finishing import finish
from mlserve_cli.quantize.quantizers.quantizer import Job, refuse, require_library

if TYPE_CHECKING:
    import torch

    from mlserve_cli.quantize.static import Quantized

BATCH = 32
"""Rows at a time. Its min-max observer is a moving average, so this does shape the result."""

OBSERVERS = {"minmax": "minmax", "mse": "kl"}
"""Our calibrator → its name. Its "kl" is torch's HistogramObserver, whose search is for the
smallest squared error and has nothing of Kullback–Leibler."""

PURPOSE = "quantize with Neural Compressor"
EXTRA = "neural-compressor"


class Pt2eQuantizer:
    """`prepare` and `convert` of `neural_compressor.torch.quantization`."""

    name = "neural-compressor"
    libraries = ("neural-compressor-pt", "torch", "onnxscript")

    def requires(self, parent: Package, choices: Choices) -> None:
        """Refuse what its torch side has not, and a package without its torch module."""
        from mlserve_cli.training import source

        refuse(
            self.name,
            [
                (
                    choices.calibrator not in OBSERVERS,
                    f"has no calibrator '{choices.calibrator}': it has minmax and mse",
                ),
                (
                    choices.smooth,
                    "cannot smooth: that wants an extension that stopped at torch 2.8",
                ),
                (choices.bias_correction, "has no bias correction"),
                (choices.reduce_range, "has no weights of seven bits"),
                (choices.form != "u8s8", "writes unsigned activations only, which are for x86"),
                (bool(choices.exclude), "cannot exclude nodes of the ONNX graph: it never sees it"),
            ],
        )
        require_library("neural_compressor", EXTRA, PURPOSE)
        if not (parent.source / source.SOURCE_JSON).is_file():
            raise StepError(
                f"'{parent.path}' holds no torch module, and the quantizer '{self.name}' takes "
                "nothing else.",
                hint="--quantizer onnxruntime and nncf take the ONNX file",
            )

    def quantize(self, job: Job) -> Quantized:
        """Quantize the module, write it as ONNX, give scales to what has none."""
        import onnx

        from mlserve_cli.graph import successor
        from mlserve_cli.training import source

        job.progress.stage("quantizing with Neural Compressor")
        trainable = source.load(job.parent)
        with _alone(), needs_extra(EXTRA, PURPOSE):
            try:
                module = _quantized(trainable.module, trainable.input_names, job)
            except (ImportError, MlserveError):
                raise
            except Exception as error:  # torch.export, torchao and its own errors
                raise StepError(
                    f"Neural Compressor cannot quantize the model: {first_line(error)}."
                ) from error
        job.progress.stage("writing the int8 model")
        path = job.folder / "pt2e.onnx"
        with _alone():
            successor.write(module, job.parent, path)
        return finish(onnx.load(path), job)


def _quantized(module: torch.nn.Module, names: tuple[str, ...], job: Job) -> torch.nn.Module:
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare

    def arguments(batch: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(batch[name])) for name in names)

    batches = [arguments(batch) for batch in job.rows.parts(BATCH)]
    example = tuple(torch.cat([each, each])[: max(2, len(each))] for each in batches[0])
    shapes = {spec.name: spec.shape for spec in job.parent.manifest.inputs}
    dynamic = tuple(
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate(shapes[name])
            if isinstance(size, str)
        }
        for name in names
    )
    observed = prepare(
        export(module, example, dynamic_shapes=dynamic),
        StaticQuantConfig(act_algo=OBSERVERS[job.choices.calibrator]),
        example_inputs=example,
    )
    with torch.no_grad():
        for batch in batches:
            observed(*batch)
    converted: torch.nn.Module = convert(observed)
    converted.eval = lambda: converted  # type: ignore[method-assign]  # an exported one refuses it
    return converted


@contextmanager
def _alone() -> Iterator[None]:
    """Without log lines and warnings."""
    nowhere = io.StringIO()
    with quietly(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
