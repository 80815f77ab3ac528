"""`mlserve rollback`: back to the version that answered before."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve_cli.cli import console, remote


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    url: remote.Url = remote.DEFAULT_URL,
    key: remote.Key = None,
    ca: remote.Ca = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """End the canary that runs; where none does, go back to the version of before."""
    document = remote.client(url, key, ca).rollback(model)
    if as_json:
        console.print_json(document)
        return
    remote.print_traffic(document)
    console.next_command("mlserve status")
