"""Post-training quantization of ONNX models to int8, static and dynamic, as package steps."""

from __future__ import annotations

from mlserve_cli.quantize.dynamic import DynamicStep
from mlserve_cli.quantize.static import StaticStep

__all__ = ["DynamicStep", "StaticStep"]
