"""The default: ONNX Runtime's writer, driven by our ranges, smoothing and bias correction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.package.package import Package
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.quantizers.quantizer import Job

if TYPE_CHECKING:
    from mlserve_cli.quantize.static import Quantized


class WriterQuantizer:
    """Takes every choice there is."""

    name = "onnxruntime"
    libraries = ()

    def requires(self, parent: Package, choices: Choices) -> None:
        """Nothing more than the step itself does."""

    def quantize(self, job: Job) -> Quantized:
        """As `static.quantize`."""
        from mlserve_cli.quantize import static

        return static.quantize(
            job.path, job.rows, job.choices, cache=job.cache, progress=job.progress
        )
