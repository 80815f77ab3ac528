"""`mlserve promote`: all of a model's requests to one version."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import console, remote


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]", help="A version that is loaded; else the canary that runs."
        ),
    ] = None,
    url: remote.Url = remote.DEFAULT_URL,
    key: remote.Key = None,
    ca: remote.Ca = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a version the one that answers all requests; 'rollback' takes it back."""
    document = remote.client(url, key, ca).promote(model, version)
    if as_json:
        console.print_json(document)
        return
    remote.print_traffic(document)
    console.next_command(f"mlserve status, or mlserve rollback {model}")
