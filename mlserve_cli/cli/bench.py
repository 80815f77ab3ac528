"""`mlserve bench`: how fast packages are, side by side, and live servers under load."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import engines, live, regression, scenario


def command(
    context: typer.Context,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUBJECT",
            help="Packages, the first of which others are held to; or the URLs of live servers.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="N,N,…",
            help="Batch sizes, separated by commas (1,8,32); of a live server, rows a request (1).",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=0.01,
            help="To spend on each package and batch size (1.5); on each load of a server (5); on "
            "a scenario at least (10).",
        ),
    ] = None,
    threads: engines.Threads = None,
    engine: engines.Engines = None,
    precision: engines.Precisions = None,
    profile: engines.Profiled = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    csv: live.Csv = None,
    html: live.Html = None,
    protocol: live.ProtocolName = None,
    model: live.Model = None,
    data: live.Data = None,
    package: live.PackageOption = None,
    concurrency: live.Concurrency = None,
    rate: live.Rate = None,
    poisson: live.Poisson = False,
    find_rate: live.FindRate = False,
    p99_ms: live.P99 = None,
    timeout: live.Timeout = 30.0,
    processes: live.Processes = 1,
    seed: live.Seed = 0,
    key: live.Key = None,
    ca: live.Ca = None,
    scenario_name: scenario.Name = None,
    accuracy: scenario.Accuracy = False,
    logs: scenario.Logs = None,
    compare: regression.Compare = None,
    least_difference: regression.Least = 5.0,
    markdown: regression.Markdown = None,
) -> None:
    """Time packages in this process, interleaved; or put load on live servers, of any make.

    With --scenario, MLPerf's LoadGen asks one or the other. With --compare, what an older report
    measured is measured again.
    """
    subjects = subjects or []
    if (compare is not None or scenario_name is not None) and (csv is not None or html is not None):
        raise typer.BadParameter(
            "it is written of packages side by side, or of loads on servers",
            param_hint="--csv" if csv is not None else "--html",
        )
    if compare is not None:
        if scenario_name is not None:
            raise typer.BadParameter("LoadGen says itself what is valid", param_hint="--scenario")
        regression.run(
            compare,
            subjects,
            least_percent=least_difference,
            markdown=markdown,
            data=data,
            package=package,
            key=key,
            ca=ca,
            as_json=as_json,
        )
        return
    if markdown is not None:
        raise typer.BadParameter("it is of a comparison: --compare", param_hint="--markdown")
    if not subjects:
        raise typer.BadParameter("name a package or a server's URL", param_hint="SUBJECT")
    is_live = live.is_live(subjects)
    if scenario_name is not None:
        wish = scenario.Options(
            name=scenario_name,
            accuracy=accuracy,
            logs=logs,
            batch=batch,
            seconds=seconds,
            rate=rate,
            p99_ms=p99_ms,
            threads=threads,
            engine=engine,
            precision=precision,
            protocol=protocol,
            model=model,
            data=data,
            package=package,
            concurrency=concurrency,
            timeout_s=timeout,
            seed=seed,
            key=key,
            ca=ca,
        )
        scenario.run(subjects, wish, is_live=is_live, as_json=as_json)
        return
    if accuracy or logs is not None:
        raise typer.BadParameter(
            "it is of LoadGen's scenarios: --scenario",
            param_hint="--accuracy" if accuracy else "--logs",
        )
    _refuse_strays(context, subjects[0], is_live=is_live)
    if is_live:
        options = live.Options(
            protocol=protocol,
            model=model,
            data=data,
            package=package,
            batch=batch,
            concurrency=concurrency,
            rate=rate,
            poisson=poisson,
            find_rate=find_rate,
            p99_ms=p99_ms,
            seconds=seconds,
            timeout_s=timeout,
            processes=processes,
            seed=seed,
        )
        live.run(subjects, options, key=key, ca=ca, csv=csv, html=html, as_json=as_json)
        return
    typed = engines.Options(
        batch=batch, seconds=seconds, threads=threads, engines=engine, precisions=precision
    )
    engines.run(subjects, typed, profile=profile, csv=csv, html=html, as_json=as_json)


def _refuse_strays(context: typer.Context, subject: str, *, is_live: bool) -> None:
    """Refuse options that are of servers alone for a package, and the other way around."""
    panel = engines.PANEL if is_live else live.PANEL
    what = "a live server" if is_live else "a package, measured in this process"
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "")
        typed = given is not None and given.name == "COMMANDLINE"
        if typed and getattr(option, "rich_help_panel", None) == panel:
            raise typer.BadParameter(
                f"it is of {panel.lower()}, and '{subject}' is {what}", param_hint=option.opts[0]
            )
