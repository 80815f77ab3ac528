"""`mlserve deploy`: a package into the repository of a running server, and loaded there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console, remote

if TYPE_CHECKING:
    from mlserve_cli.deploy.client import Client
    from mlserve_cli.package.package import Package


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL|FOLDER",
            envvar="MLSERVE_URL",
            help="A running server, or a folder of packages.",
        ),
    ] = remote.DEFAULT_URL,
    canary: Annotated[
        float | None,
        typer.Option("--canary", min=0, max=100, help="Its share of the requests, in percent."),
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Load it without traffic: who answers now goes on.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace another package of this very version.")
    ] = False,
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            metavar="FOLDER",
            help="Where the server's folder of packages is mounted here.",
        ),
    ] = None,
    upload: Annotated[
        bool,
        typer.Option("--upload", help="Send it over HTTP to a server elsewhere; needs a key."),
    ] = False,
    key: remote.Key = None,
    ca: remote.Ca = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Copy a package to a running server, load it beside live traffic, and let it answer.

    It is copied whole or not at all, and taken out again if the server cannot load it.
    """
    from mlserve_cli.deploy.delivery import deliver
    from mlserve_cli.package.package import Package

    opened = Package.open(package)
    if "://" not in to and Path(to).is_dir():
        if canary is not None or hold:
            raise typer.BadParameter("a folder has no traffic", param_hint="--canary, --hold")
        delivered = deliver(opened, Path(to), replace=replace)
        delivered.settle()
        document: dict[str, Any] = {"path": str(delivered.path), "copied": delivered.is_new}
    else:
        document = _to_server(
            opened,
            remote.client(to, key, ca),
            canary=canary,
            hold=hold,
            replace=replace,
            repository=repository,
            upload=upload,
        )
    if as_json:
        console.print_json(document)
        return
    _print(opened, document)


def _to_server(
    package: Package,
    client: Client,
    *,
    canary: float | None,
    hold: bool,
    replace: bool,
    repository: Path | None,
    upload: bool,
) -> dict[str, Any]:
    """Deliver, load, shift. What could not be loaded is taken out again."""
    name, version = package.manifest.name, package.manifest.version
    hold = hold or canary is not None
    if upload:
        found = client.upload(package, replace=replace, hold=hold)
    else:
        found = _copied(package, client, hold=hold, replace=replace, repository=repository)
    if canary is not None:
        found = {**found, **client.canary(name, version, canary)}
    return found


def _copied(
    package: Package, client: Client, *, hold: bool, replace: bool, repository: Path | None
) -> dict[str, Any]:
    from mlserve_cli.deploy.delivery import deliver

    name, version = package.manifest.name, package.manifest.version
    folder = repository or Path(client.status()["repository"])
    delivered = deliver(package, folder, replace=replace)
    try:
        reload = delivered.replaced is not None
        found = client.load(name, version, reload=reload, hold=hold)
    except BaseException:
        delivered.take_back()
        raise
    delivered.settle()
    return {"path": str(delivered.path), "copied": delivered.is_new, **found}


def _print(package: Package, document: dict[str, Any]) -> None:
    name, version = package.manifest.name, package.manifest.version
    if "path" in document:
        what = "copied to" if document["copied"] else "was already in"
        console.note(f"{name} {version}: {what} {document['path']}")
    if "versions" not in document:
        return
    remote.print_traffic(document)
    share = next(
        (entry["share"] for entry in document["versions"] if entry["version"] == version), 0.0
    )
    if share == 100:
        console.next_command(f"mlserve status, or mlserve rollback {name}")
    elif share:
        console.next_command(f"mlserve promote {name}, or mlserve rollback {name}")
    else:
        console.next_command(f"mlserve canary {name} {version} 10")
