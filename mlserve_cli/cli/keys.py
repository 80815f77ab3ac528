"""`mlserve keys`: make, list and remove the API keys that a server takes."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mlserve_cli.cli import console

app = typer.Typer(
    name="keys",
    help="Make, list and remove the API keys that a server takes.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Whose key it is; the audit log has this name.")]
File = Annotated[
    Path,
    typer.Option(
        "--file",
        "-f",
        envvar="MLSERVE_KEYS",
        show_envvar=True,
        help="The keys file. A running server that was given it sees each change within a second.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("add")
def add(
    name: Name,
    file: File = Path("keys.json"),
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="infer (the default) or admin; may be given twice."),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires",
            formats=["%Y-%m-%d"],
            help="The first day (UTC) on which it is not taken any more.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: the file keeps its hash alone."""
    from mlserve_cli.errors import MlserveError
    from mlserve_cli.runtime import keys

    known = keys.read(file) if file.exists() else []
    if any(key.name == name for key in known):
        raise MlserveError(
            f"'{file}' has a key for '{name}' already.",
            hint=f"mlserve keys remove {name} --file {file}, or take another name",
        )
    wanted = scope or ["infer"]
    unknown = [each for each in wanted if each not in keys.SCOPES]
    if unknown:
        raise typer.BadParameter(f"a scope is {' or '.join(keys.SCOPES)}, not '{unknown[0]}'")
    scopes = [each for each in keys.SCOPES if each in wanted]
    made, text = keys.make(name, scopes, expires=expires.date() if expires else None)
    keys.write(file, [*known, made])
    if as_json:
        console.print_json({"name": name, "scopes": list(made.scopes), "key": text})
    else:
        sys.stdout.write(f"{text}\n")
        console.note(
            f"this is the only time that the key of '{name}' is shown; '{file}' has its hash"
        )
    console.next_command(f"mlserve up PKG --keys {file}")


@app.command("list")
def show(file: File = Path("keys.json"), as_json: AsJson = False) -> None:
    """Say whose keys there are, what they are good for, and until when."""
    from mlserve_cli.runtime import keys

    known = keys.read(file)
    if as_json:
        listed = [
            {
                "name": key.name,
                "scopes": list(key.scopes),
                "created": key.created.isoformat(),
                "expires": key.expires.isoformat() if key.expires else None,
                "expired": key.expired(),
            }
            for key in known
        ]
        console.print_json({"keys": listed})
        return
    for key in known:
        until = "" if key.expires is None else f"  until {key.expires}"
        gone = "  EXPIRED" if key.expired() else ""
        sys.stdout.write(f"{key.name}  {','.join(key.scopes)}  since {key.created}{until}{gone}\n")


@app.command("remove")
def remove(name: Name, file: File = Path("keys.json")) -> None:
    """Take a key back: a running server refuses it within a second."""
    from mlserve_cli.errors import MlserveError
    from mlserve_cli.runtime import keys

    known = keys.read(file)
    left = [key for key in known if key.name != name]
    if len(left) == len(known):
        names = ", ".join(key.name for key in known) or "none"
        raise MlserveError(f"'{file}' has no key for '{name}'.", hint=f"it has: {names}")
    keys.write(file, left)
    console.note(f"the key of '{name}' is not taken any more")
