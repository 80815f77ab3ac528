"""A step by its name in a recipe → the step itself, its parameters checked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlserve_cli.errors import StepError
from mlserve_cli.package.step import Step
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.search.candidate import StepChoice

Rows = Iterable[Tensors] | None

STEPS: Mapping[str, str] = {
    "quantize": "mlserve_cli.pipeline.steps:quantize",
    "prune": "mlserve_cli.pipeline.steps:prune",
    "distill": "mlserve_cli.pipeline.steps:distill",
}
"""What a recipe may name → `module:function` from (rows, **parameters) to a step."""


def build(choice: StepChoice, rows: Rows) -> Step:
    """The step that a recipe names. `rows` are for calibration, where there are some.

    Raises `StepError` for a step or a parameter that there is none of.
    """
    target = STEPS.get(choice.step)
    if target is None:
        raise StepError(
            f"'{choice.step}' is no step of a recipe.", hint=f"it can be {', '.join(STEPS)}"
        )
    module, _, name = target.partition(":")
    function: Callable[..., Step] = getattr(importlib.import_module(module), name)
    try:
        return function(rows, **choice.parameters)
    except TypeError as error:
        raise StepError(
            f"the step '{choice.step}' of the recipe has parameters that it does not take: {error}."
        ) from error


def quantize(rows: Rows, *, method: str = "static", **parameters: Any) -> Step:
    """`mlserve quantize`."""
    from mlserve_cli.quantize import DynamicStep, StaticStep

    if method == "dynamic":
        return DynamicStep(**parameters)
    if method != "static":
        raise StepError(
            f"'{method}' is no method of quantization.", hint="it can be static or dynamic"
        )
    if rows is None:
        raise StepError(
            "static quantization takes its ranges from real rows, and there are none.",
            hint="pass --calibration FILE, or give the definition a calibration()",
        )
    return StaticStep(rows, **parameters)


def prune(rows: Rows, **parameters: Any) -> Step:
    """`mlserve prune`."""
    from mlserve_cli.prune.step import PruneStep

    return PruneStep(**parameters)


def distill(rows: Rows, **parameters: Any) -> Step:
    """`mlserve distill`."""
    from mlserve_cli.distill.step import DistillStep

    return DistillStep(**parameters)
