"""`mlserve quantize`: fewer bits, accepted when accuracy and speed were measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlserve_cli.cli import variant

if TYPE_CHECKING:
    from mlserve_cli.package.step import Step
    from mlserve_cli.runtime.tensors import Tensors

Method = Literal["static", "dynamic", "int4", "int8-weights", "fp16", "bf16"]


def command(
    package: variant.Parent,
    output: variant.Output,
    method: Annotated[
        Method,
        typer.Option(
            help="static: int8 convolutions and matrices, with ranges from calibration rows; "
            "dynamic: int8 matrices and LSTMs, no calibration; int4, int8-weights: small weights, "
            "float activations; fp16: for GPUs and ARM; bf16: through OpenVINO or torch."
        ),
    ] = "static",
    quantizer: Annotated[
        Literal["onnxruntime", "nncf", "neural-compressor"],
        typer.Option(
            help="static: whose algorithm. onnxruntime: ours, with ONNX Runtime's writer; nncf, "
            "neural-compressor: theirs, as extras; what they cannot do is refused."
        ),
    ] = "onnxruntime",
    calibration: Annotated[
        str | None,
        typer.Option(help="Rows to take ranges from, as --data; else calibration()."),
    ] = None,
    calibrator: Annotated[
        Literal["minmax", "percentile", "entropy", "mse"],
        typer.Option(
            help="static: how much of each range 8 bits cover. minmax: all; percentile: all but "
            "outliers; entropy: least information lost; mse: least squared error."
        ),
    ] = "minmax",
    percentile: Annotated[
        float | None,
        typer.Option(help="Percent of the values that --calibrator percentile keeps (99.99)."),
    ] = None,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth", help="static: move outliers of activations into weights (SmoothQuant)."
        ),
    ] = False,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction", help="static: take the mean error of each channel out again."
        ),
    ] = False,
    target_isa: Annotated[
        Literal["this", "vnni", "avx2", "arm"],
        typer.Option(
            help="static: the CPU to write for. arm: signed activations; avx2: x86 where VNNI is "
            "not certain. Speed is judged on this machine all the same."
        ),
    ] = "this",
    reduce_range: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            help="static: weights of 7 bits, which x86 without VNNI needs not to saturate. auto: "
            "where --target-isa has none."
        ),
    ] = "auto",
    algorithm: Annotated[
        Literal["rtn", "hqq"],
        typer.Option(help="int4: round to nearest, or half-quadratic (needs torch)."),
    ] = "rtn",
    exclude: Annotated[
        list[str] | None, typer.Option(help="A node to leave in float; may be repeated.")
    ] = None,
    cache: Annotated[
        bool, typer.Option(help="Keep ranges, and take those of the same model and rows.")
    ] = True,
    data: variant.Data = None,
    target: variant.Target = None,
    max_drop: variant.MaxDrop = None,
    allow_slower: variant.AllowSlower = False,
    batch: variant.Batches = "1,8",
    force: variant.Force = False,
    as_json: variant.Json = False,
) -> None:
    """Quantize a package, and keep the result only if it is as good and no slower.

    A variant that loses more than --max-drop, or that is slower than its parent beyond noise, is
    kept beside as OUTPUT.refused, and the command ends with status 1.
    """
    from mlserve_cli.pipeline import steps

    _check(
        method,
        {
            "--quantizer": ("static", quantizer != "onnxruntime"),
            "--calibrator": ("static", calibrator != "minmax"),
            "--percentile": ("static", percentile is not None),
            "--smooth": ("static", smooth),
            "--bias-correction": ("static", bias_correction),
            "--target-isa": ("static", target_isa != "this"),
            "--reduce-range": ("static", reduce_range != "auto"),
            "--algorithm": ("int4", algorithm != "rtn"),
        },
    )
    if percentile is not None and calibrator != "percentile":
        raise typer.BadParameter("it is for --calibrator percentile.", param_hint="--percentile")
    if percentile is not None and not 50 < percentile <= 100:
        raise typer.BadParameter("it goes from above 50 to 100.", param_hint="--percentile")
    if exclude and method == "bf16":
        raise typer.BadParameter("bf16 is for the whole model.", param_hint="--exclude")

    def build(rows: Iterable[Tensors] | None) -> Step:
        return steps.quantize(
            rows,
            method=method,
            exclude=exclude or (),
            calibrator=calibrator,
            percentile=99.99 if percentile is None else percentile,
            smooth=smooth,
            bias_correction=bias_correction,
            target_isa=target_isa,
            reduce_range=reduce_range,
            algorithm=algorithm,
            quantizer=quantizer,
            cache=cache,
        )

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


def _check(method: str, given: dict[str, tuple[str, bool]]) -> None:
    """Refuse an option that the method would ignore."""
    for option, (wanted, is_given) in given.items():
        if is_given and method != wanted:
            raise typer.BadParameter(
                f"it is for --method {wanted}, not {method}.", param_hint=option
            )
