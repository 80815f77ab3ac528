"""`mlserve quantize`: fewer bits, accepted when accuracy and speed were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlserve_cli.cli import console, duration, variant

if TYPE_CHECKING:
    from mlserve_cli.pipeline.aware import Aware

Method = Literal["static", "qat", "dynamic", "int4", "int8-weights", "fp16", "bf16"]


def command(
    package: variant.Parent,
    output: variant.Output,
    method: Annotated[
        Method,
        typer.Option(
            help="static: int8 convolutions and matrices, with ranges from calibration rows; "
            "qat: the same after a short training that feels the rounding, for what static spoils; "
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
    fuse: Annotated[
        bool | None,
        typer.Option(
            "--fuse/--no-fuse",
            help="static: attention as one int8 operator, which ONNX Runtime alone has; --no-fuse "
            "for a file that other engines take as well. If neither is given, it is taken unless "
            "it is slower here, on the package's golden rows.",
        ),
    ] = None,
    algorithm: Annotated[
        Literal["rtn", "hqq"],
        typer.Option(help="int4: round to nearest, or half-quadratic (needs torch)."),
    ] = "rtn",
    exclude: Annotated[
        list[str] | None, typer.Option(help="A node to leave in float; may be repeated.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="qat: epochs of training; else a quarter of TRAINING's."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="qat: of AdamW, at its peak; else 0.001.")
    ] = None,
    seed: variant.Seed = 0,
    cache: Annotated[
        bool, typer.Option(help="Keep ranges, and take those of the same model and rows.")
    ] = True,
    accuracy_aware: Annotated[
        bool,
        typer.Option(
            "--accuracy-aware",
            help="static: where all of it in int8 loses more than --max-drop, find the nodes to "
            "leave in float: ranked by their error, then by bisection.",
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="--accuracy-aware stops after this: 90s, 10m, 1h."),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluations of accuracy that --accuracy-aware may make (15)."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an --accuracy-aware search for this output, or with a qat training "
            "that was interrupted.",
        ),
    ] = False,
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
    kept beside as OUTPUT.refused, and the command ends with status 1. With --accuracy-aware the
    best so far is always there, and OUTPUT.search holds what was tried, for --resume.
    """
    from mlserve_cli.pipeline import steps

    _check(
        method,
        {
            "--quantizer": ("static", quantizer != "onnxruntime"),
            "--calibrator": ("static qat", calibrator != "minmax"),
            "--percentile": ("static qat", percentile is not None),
            "--smooth": ("static", smooth),
            "--bias-correction": ("static", bias_correction),
            "--target-isa": ("static qat", target_isa != "this"),
            "--reduce-range": ("static qat", reduce_range != "auto"),
            "--fuse": ("static", fuse is True),
            "--no-fuse": ("static", fuse is False),
            "--algorithm": ("int4", algorithm != "rtn"),
            "--accuracy-aware": ("static", accuracy_aware),
            "--epochs": ("qat", epochs is not None),
            "--learning-rate": ("qat", learning_rate is not None),
            "--seed": ("qat", seed != 0),
        },
    )
    for option, given in (
        ("--budget", budget is not None),
        ("--evaluations", evaluations is not None),
        ("--resume", resume and method != "qat"),
    ):
        if given and not accuracy_aware:
            raise typer.BadParameter("it is for --accuracy-aware.", param_hint=option)
    if accuracy_aware and quantizer == "neural-compressor":
        raise typer.BadParameter(
            "neural-compressor cannot leave single nodes in float.", param_hint="--accuracy-aware"
        )
    if percentile is not None and calibrator != "percentile":
        raise typer.BadParameter("it is for --calibrator percentile.", param_hint="--percentile")
    if percentile is not None and not 50 < percentile <= 100:
        raise typer.BadParameter("it goes from above 50 to 100.", param_hint="--percentile")
    if exclude and method == "bf16":
        raise typer.BadParameter("bf16 is for the whole model.", param_hint="--exclude")

    parameters: dict[str, Any] = {
        "method": method,
        "exclude": list(exclude or ()),
        "calibrator": calibrator,
        "percentile": 99.99 if percentile is None else percentile,
        "smooth": smooth,
        "bias_correction": bias_correction,
        "target_isa": target_isa,
        "reduce_range": reduce_range,
        "fuse": fuse if method == "static" else False,
        "algorithm": algorithm,
        "quantizer": quantizer,
        "cache": cache,
    }
    checkpoints = None
    if method == "qat":
        checkpoints = variant.checkpoints(output, resume=resume, force=force)
        parameters |= {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "seed": seed,
            "checkpoints": checkpoints,
        }
    request = variant.Request(
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
        checkpoints=checkpoints,
    )
    if accuracy_aware:
        _run_aware(request, parameters, budget, evaluations, resume=resume)
        return
    variant.run(request, lambda rows: steps.quantize(rows, **parameters))


def _run_aware(
    request: variant.Request,
    parameters: dict[str, Any],
    budget: str | None,
    evaluations: int | None,
    *,
    resume: bool,
) -> None:
    from mlserve_cli.cli import verdict
    from mlserve_cli.pipeline import aware
    from mlserve_cli.pipeline.searching import Goal
    from mlserve_cli.search.candidate import StepChoice

    parent, cases, gate = variant.opened(request)
    limit = aware.EVALUATIONS if evaluations is None else evaluations
    goal = Goal(
        gate=gate,
        budget_s=None if budget is None else duration.parse(budget, flag="--budget"),
        evaluations=limit,
    )
    with console.progress() as progress:
        found = aware.quantize(
            StepChoice(step="quantize", parameters=parameters),
            parent,
            request.output,
            cases=cases,
            goal=goal,
            progress=progress,
            resume=resume,
            overwrite=request.force,
        )
    verdict.show(
        found.verdict, as_json=request.as_json, facts=_facts(found), notes=_sentences(found)
    )


def _facts(found: Aware) -> dict[str, Any]:
    import msgspec

    return {
        "excluded": list(found.excluded),
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "stopped": found.stopped,
        "trials": [msgspec.to_builtins(trial) for trial in found.trials],
    }


def _sentences(found: Aware) -> list[str]:
    made = (
        "one evaluation of accuracy was made"
        if found.evaluations == 1
        else f"{found.evaluations} evaluations of accuracy were made"
    )
    if not found.excluded:
        left = "nothing had to stay in float"
        if found.verdict.refusals:
            left = "no set of nodes in float was found that does better"
    else:
        left = f"left in float: {', '.join(found.excluded)}"
    sentences = [left, made]
    if found.stopped:
        sentences.append(f"the search stopped early: {found.stopped}; --resume goes on")
    return sentences


def _check(method: str, given: dict[str, tuple[str, bool]]) -> None:
    """Refuse an option that the method would ignore."""
    for option, (wanted, is_given) in given.items():
        if is_given and method not in wanted.split():
            raise typer.BadParameter(
                f"it is for --method {' and '.join(wanted.split())}, not {method}.",
                param_hint=option,
            )
