"""`--url`, `--key` and `--ca`: which running server a command talks to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mlserve_cli.deploy.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[
    str,
    typer.Option("--url", envvar="MLSERVE_URL", help="The server, as 'mlserve up' prints it."),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="MLSERVE_KEY",
        show_envvar=True,
        help="An API key of the scope admin; better in the environment than in the history.",
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Certificates to trust, for https."),
]


def client(url: str, key: str | None, ca: Path | None) -> Client:
    """The admin API of that server."""
    from mlserve_cli.deploy.client import Client

    return Client(url, key=key, ca=ca)


def print_traffic(document: dict[str, Any]) -> None:
    """Say on stderr what a model's traffic is after an operation."""
    from mlserve_cli.cli import console

    for entry in document["versions"]:
        console.note(f"{document['name']} {traffic(entry)}")
    if not document["kept"]:
        console.note("this holds until the server restarts: it could not be kept, as its log says")


def traffic(entry: dict[str, Any]) -> str:
    """One version in a line: `2  10 %  canary, shadow of 5 %`."""
    words = [f"{entry['version']}  {entry['share']:g} %"]
    if entry["labels"]:
        words.append(", ".join(entry["labels"]))
    if entry["shadow"]:
        words.append(f"shadow of {entry['shadow']:g} %")
    if entry["state"] != "READY":
        words.append(f"{entry['state'].lower()}: {entry['reason'] or 'no reason was given'}")
    return "  ".join(words)
