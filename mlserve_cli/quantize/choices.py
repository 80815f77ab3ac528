"""Every choice of static int8, in one place: what a search varies and what the lineage records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlserve_cli.errors import StepError

Calibrator = Literal["minmax", "percentile", "entropy", "mse"]
Form = Literal["u8s8", "s8s8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How a float model is written in int8.

    calibrator: how the range of an activation is found; percentile: what that one keeps, percent.
    form: of activations and weights. u8s8 is what x86 multiplies at full speed (VNNI's VPDPBUSD
        takes u8 by s8; ONNX Runtime's s8s8 runs slower than float there); s8s8 is what ARM likes.
    reduce_range: seven bits for weights, so that no pair of products saturates 16 bits.
    smooth: move outliers of activations into weights before rounding (SmoothQuant).
    bias_correction: take the mean error that rounding leaves back out of the biases.
    fuse: write attention as one int8 operator, which ONNX Runtime alone has. None: where it is no
        slower here, on the rows of the package.
    exclude: names, or patterns with `*`, of convolutions and products to leave in float.
    """

    calibrator: Calibrator = "minmax"
    percentile: float = 99.99
    form: Form = "u8s8"
    reduce_range: bool = False
    smooth: bool = False
    bias_correction: bool = False
    fuse: bool | None = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise StepError(
                f"the percentile is {self.percentile:g}, and it must be above 50 and at most 100.",
                hint="99.9 to 99.999 are usual",
            )

    def facts(self) -> dict[str, Any]:
        """For the lineage: what was chosen, in words that last."""
        facts: dict[str, Any] = {
            "form": self.form,
            "activations": "uint8" if self.form == "u8s8" else "int8",
            "weights": "int8 per channel" + (", 7 bits" if self.reduce_range else ""),
            "calibrator": self.calibrator,
        }
        if self.calibrator == "percentile":
            facts["percentile"] = self.percentile
        return facts | {
            "smooth": self.smooth,
            "bias_correction": self.bias_correction,
            "exclude": list(self.exclude),
        }
