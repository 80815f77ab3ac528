"""`mlserve up`: serve an ONNX file, a package, a folder of packages, or a server folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve_cli.cli import console

if TYPE_CHECKING:
    from mlserve_cli.runtime.server import Server


def command(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE.onnx|PKG|REPO|DIR",
            help="An ONNX file, a package, a folder of packages, or a server folder.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings from this server.toml, as 'mlserve plan' writes one.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how each model runs, and why.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON document, once the server is ready or as --print-config."
        ),
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print every setting and where its value comes from; then end."
        ),
    ] = False,
) -> None:
    """Serve a model now, and say where. Ctrl-C or SIGTERM ends the work in flight, then exits.

    Every setting of a server is a flag, too: 'mlserve up --help' lists them all.
    """
    from mlserve_cli.cli.settings_flags import given
    from mlserve_cli.pipeline import serving

    if source is None:
        raise typer.BadParameter(
            "name what is to be served"
            + (f": mlserve up PKG --config {config}, whose settings are for it" if config else ""),
            param_hint="FILE.onnx|PKG|REPO|DIR",
        )
    kind = serving.recognize(source)
    flags = given(context)
    if print_config:
        found = serving.configuration(source, flags, config)
        if as_json:
            console.print_json({"settings": found.to_builtins()})
        else:
            sys.stdout.write(found.to_toml())
        return
    if kind == "server":
        if as_json or verbose:
            raise typer.BadParameter("a server folder prints what its own server.py prints.")
        if config is not None:
            serving.configuration(source, flags, config)  # refuses it, with the reason
        _become(source, serving.environment(flags))
    if kind == "onnx":
        with console.progress() as progress:
            package = serving.packaged(source, progress=progress)
        console.note(
            f"{package.manifest.name}: packaged from {source}; its proofs are made of synthetic "
            "rows (for real ones: mlserve export FILE.onnx --calibration DATA -o PKG)"
        )
        source = package.path
    from mlserve_cli.errors import SettingsError, StartupError
    from mlserve_cli.runtime.app import build_app
    from mlserve_cli.runtime.serving import serve

    def announce(url: str) -> None:
        _announce(server, url, verbose=verbose, as_json=as_json)

    try:
        server = serving.server(source, flags, config)
        serve(build_app(server), server, announce=announce)
    except SettingsError as error:  # what a server folder of its own exits with, too
        raise StartupError(error.message, hint=error.hint) from error


def _become(folder: Path, flags: dict[str, str]) -> None:
    """Turn this process into the folder's own server, so that what was changed there counts."""
    os.environ.update(flags)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, str((folder / "server.py").resolve())])  # noqa: S606 - the user's own file, no shell


def _announce(server: Server, url: str, *, verbose: bool, as_json: bool) -> None:
    from mlserve_cli.runtime import announcement
    from mlserve_cli.runtime.example import curl_line

    models = server.registry.models()
    if as_json:
        import msgspec

        console.print_json(
            {
                "url": url,
                "grpc": announcement.grpc_addresses(server, url),
                "models": [
                    {
                        "name": model.manifest.name,
                        "version": model.manifest.version,
                        "variant": model.manifest.variant,
                        "sizing": msgspec.to_builtins(model.sizing),
                        "curl": curl_line(model, url, key=bool(server.settings.keys)),
                    }
                    for model in models
                ],
            }
        )
        sys.stdout.flush()
        return
    for model in models:
        manifest = model.manifest
        console.note(f"{manifest.name} {manifest.version}  {manifest.variant}")
        if verbose:
            for name, reason in model.sizing.reasons.items():
                console.note(f"  {name}: {reason}")
    # Not through the console, which would break the curl line at the terminal's width.
    sys.stderr.writelines(f"{line}\n" for line in announcement.lines(server, url))
    sys.stderr.flush()
