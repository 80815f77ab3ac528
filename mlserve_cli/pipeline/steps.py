"""A step by its name in a recipe → the step itself, its parameters checked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Step
from mlserve_cli.quantize.choices import Calibrator
from mlserve_cli.quantize.targets import Isa, Reduce
from mlserve_cli.quantize.weight_only import Algorithm
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.search.candidate import StepChoice

if TYPE_CHECKING:
    from mlserve_cli.quantize.quantizers import Quantizer
    from mlserve_cli.training.checkpoint import Checkpoints

Rows = Iterable[Tensors] | None

STEPS: Mapping[str, str] = {
    "quantize": "mlserve_cli.pipeline.steps:quantize",
    "prune": "mlserve_cli.pipeline.steps:prune",
    "distill": "mlserve_cli.pipeline.steps:distill",
    "engine": "mlserve_cli.pipeline.steps:engine",
    "train": "mlserve_cli.pipeline.steps:train",
}
"""What a recipe may name → `module:function` from (rows, **parameters) to a step."""

METHODS = ("static", "qat", "dynamic", "int4", "int8-weights", "fp16", "bf16")
"""Of the step "quantize"."""


def trains(choice: StepChoice) -> bool:
    """Whether the step may go through the training loop, and keeps checkpoints there."""
    return choice.step in ("prune", "distill", "train") or choice.parameters.get("method") == "qat"


def build(choice: StepChoice, rows: Rows, *, checkpoints: Checkpoints | None = None) -> Step:
    """The step that a recipe names. `rows` are for calibration, where there are some.

    checkpoints: where a step that trains keeps what it has.

    Raises `StepError` for a step or a parameter that there is none of.
    """
    target = STEPS.get(choice.step)
    if target is None:
        raise StepError(
            f"'{choice.step}' is no step of a recipe.", hint=f"it can be {', '.join(STEPS)}"
        )
    module, _, name = target.partition(":")
    function: Callable[..., Step] = getattr(importlib.import_module(module), name)
    _check(choice, function)
    try:
        kept = {"checkpoints": checkpoints} if checkpoints and trains(choice) else {}
        return function(rows, **choice.parameters, **kept)
    except TypeError as error:
        raise StepError(
            f"the step '{choice.step}' of the recipe has parameters that it does not take: {error}."
        ) from error


def _check(choice: StepChoice, function: Callable[..., Step]) -> None:
    """Refuse a value of another type than the parameter's, or none of those that it can be."""
    import msgspec

    # What only type checkers import is made by us, never read from a recipe.
    types = get_type_hints(function, localns={"Checkpoints": Any})
    for name, value in choice.parameters.items():
        allowed = types.get(name, Any)
        try:
            msgspec.convert(value, allowed)
        except msgspec.ValidationError as error:
            one_of = get_args(allowed) if get_origin(allowed) is Literal else ()
            raise StepError(
                f"'{name}' of the step '{choice.step}' is {value!r}: {first_line(error)}.",
                hint=f"it can be {', '.join(one_of)}" if one_of else "",
            ) from error


def quantize(
    rows: Rows,
    *,
    method: str = "static",
    exclude: Sequence[str] = (),
    calibrator: Calibrator = "minmax",
    percentile: float = 99.99,
    smooth: bool = False,
    bias_correction: bool = False,
    target_isa: Isa = "this",
    reduce_range: Reduce = "auto",
    fuse: bool | None = False,
    algorithm: Algorithm = "rtn",
    quantizer: str = "onnxruntime",
    cache: bool = True,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Step:
    """`mlserve quantize`; what another method does not need is left at its default."""
    from mlserve_cli import quantize
    from mlserve_cli.quantize import targets
    from mlserve_cli.quantize.calibration.cache import RangeCache

    excluded = tuple(exclude)
    match method:
        case "dynamic":
            return quantize.DynamicStep(exclude=excluded)
        case "int4":
            return quantize.WeightOnlyStep(bits=4, algorithm=algorithm, exclude=excluded)
        case "int8-weights":
            return quantize.WeightOnlyStep(bits=8, exclude=excluded)
        case "fp16":
            return quantize.HalfStep(rows, exclude=excluded)
        case "bf16":
            return quantize.BfloatStep()
        case "static" | "qat":
            pass
        case _:
            raise StepError(
                f"'{method}' is no method of quantization.", hint=f"it can be {', '.join(METHODS)}"
            )
    if rows is None:
        raise StepError(
            "static quantization takes its ranges from real rows, and there are none.",
            hint="pass --calibration FILE, give the definition a calibration(), or take "
            "--method dynamic, which needs none",
        )
    choices = quantize.Choices(
        calibrator=calibrator,
        percentile=percentile,
        form=targets.form(target_isa),
        reduce_range=targets.reduces(reduce_range, target_isa),
        smooth=smooth,
        bias_correction=bias_correction,
        fuse=fuse,
        exclude=excluded,
    )
    writer: str | Quantizer = quantizer
    if method == "qat":
        from mlserve_cli.quantize.qat.quantizer import QatQuantizer
        from mlserve_cli.training.checkpoint import NO_CHECKPOINTS

        writer = QatQuantizer(
            epochs=epochs,
            learning_rate=learning_rate,
            seed=seed,
            checkpoints=checkpoints or NO_CHECKPOINTS,
        )
    return quantize.StaticStep(
        rows, choices=choices, cache=RangeCache() if cache else None, quantizer=writer
    )


def prune(rows: Rows, **parameters: Any) -> Step:
    """`mlserve prune`."""
    from mlserve_cli.prune.step import PruneStep

    return PruneStep(**parameters)


def distill(rows: Rows, **parameters: Any) -> Step:
    """`mlserve distill`."""
    from mlserve_cli.distill.step import DistillStep
    from mlserve_cli.export import estimator

    def save(definition: Definition, fitted: Any, target: Path, progress: Progress) -> Any:
        return estimator.write(estimator.of_definition(definition, fitted), target, progress)

    if isinstance(parameters.get("layers"), list):
        parameters["layers"] = tuple(parameters["layers"])
    return DistillStep(**parameters, save=save)


def engine(rows: Rows, *, engine: str) -> Step:
    """The same model, executed by another engine."""
    from mlserve_cli.pipeline.engine import EngineStep

    return EngineStep(engine)


def train(rows: Rows, **parameters: Any) -> Step:
    """`mlserve train`."""
    from mlserve_cli.finetune.step import TrainStep

    return TrainStep(**parameters)
