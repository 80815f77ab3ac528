"""`mlserve quantize`: int8, with the accuracy and the speed measured before it is accepted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlserve_cli.cli import variant

if TYPE_CHECKING:
    from mlserve_cli.package.step import Step
    from mlserve_cli.runtime.tensors import Tensors


def command(
    package: variant.Parent,
    output: variant.Output,
    method: Annotated[
        Literal["static", "dynamic"],
        typer.Option(
            help="static: convolutions and matrices, with ranges from calibration rows; "
            "dynamic: matrices only, no calibration."
        ),
    ] = "static",
    calibration: Annotated[
        str | None,
        typer.Option(help="Rows to take ranges from, as --data; else calibration()."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A node to leave in float; may be repeated.")
    ] = None,
    data: variant.Data = None,
    target: variant.Target = None,
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    batch: variant.Batches = "1,8",
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Quantize a package to int8, and keep it only if it is as good and no slower.

    A variant that loses more than --max-drop, or that is slower than its parent beyond noise, is
    kept beside as OUTPUT.refused, and the command ends with status 1.
    """
    from mlserve_cli.errors import StepError
    from mlserve_cli.quantize import DynamicStep, StaticStep

    def build(rows: Iterable[Tensors] | None) -> Step:
        if method == "dynamic":
            return DynamicStep(exclude=exclude or ())
        if rows is None:
            raise StepError(
                f"static quantization takes its ranges from real rows, and '{package}' has none.",
                hint="pass --calibration FILE, give the definition a calibration(), or take "
                "--method dynamic, which needs none",
            )
        return StaticStep(rows, exclude=exclude or ())

    variant.run(
        variant.Request(
            parent=package,
            output=output,
            data=data,
            target=target,
            max_drop=max_drop,
            allow_slower=allow_slower,
            batch=batch,
            force=force,
            as_json=as_json,
            calibration=calibration,
        ),
        build,
    )
