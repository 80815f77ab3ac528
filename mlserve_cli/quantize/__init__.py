"""Post-training quantization of packages, as steps: int8, int4 and int8 weights, half precision."""

from __future__ import annotations

from mlserve_cli.quantize.bfloat import BfloatStep
from mlserve_cli.quantize.choices import Choices
from mlserve_cli.quantize.dynamic import DynamicStep
from mlserve_cli.quantize.half import HalfStep
from mlserve_cli.quantize.static import StaticStep
from mlserve_cli.quantize.weight_only import WeightOnlyStep

__all__ = ["BfloatStep", "Choices", "DynamicStep", "HalfStep", "StaticStep", "WeightOnlyStep"]
