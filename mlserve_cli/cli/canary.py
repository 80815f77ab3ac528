"""`mlserve canary`: a share of a model's requests to another version."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import console, remote


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version that is loaded.")],
    percent: Annotated[
        float,
        typer.Argument(metavar="PERCENT", min=0, max=100, help="Its share; 0 ends the canary."),
    ],
    sticky: Annotated[
        str | None,
        typer.Option(
            "--sticky",
            metavar="header:NAME|field:NAME",
            help="What keeps a user with one version: a header, or a field of the request.",
        ),
    ] = None,
    url: remote.Url = remote.DEFAULT_URL,
    key: remote.Key = None,
    ca: remote.Ca = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send a share of a model's requests to a version; the rest stays where it is."""
    document = remote.client(url, key, ca).canary(model, version, percent, sticky=sticky)
    if as_json:
        console.print_json(document)
        return
    remote.print_traffic(document)
    console.next_command(f"mlserve promote {model}, or mlserve rollback {model}")
