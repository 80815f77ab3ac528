"""The `mlserve` command: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mlserve_cli.cli import (
    bench,
    canary,
    compare,
    console,
    deploy,
    distill,
    doctor,
    emit,
    evaluate,
    explain,
    export,
    init,
    inspect,
    interruption,
    keys,
    optimize,
    plan,
    predict,
    promote,
    prune,
    quantize,
    rollback,
    status,
    train,
    up,
    verify,
)
from mlserve_cli.cli import (
    run as replay,
)
from mlserve_cli.cli.settings_flags import SettingsCommand
from mlserve_cli.errors import Exit, MlserveError, exit_code

app = typer.Typer(
    name="mlserve",
    help="Take a trained model to a fast, safe, observable server, and prove every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from mlserve_cli import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take a trained model to a fast, safe, observable server, and prove every step."""
    global _debug
    _debug = debug


def _flowing(docstring: str) -> str:
    """Its paragraphs as one line each: Typer keeps the breaks of all but the first, and lines that
    were broken for the source are ragged in a narrower terminal."""
    from inspect import cleandoc

    return "\n\n".join(" ".join(each.split()) for each in cleandoc(docstring).split("\n\n"))


for name, command in (
    ("doctor", doctor.command),
    ("init", init.command),
    ("export", export.command),
    ("quantize", quantize.command),
    ("prune", prune.command),
    ("distill", distill.command),
    ("train", train.command),
    ("optimize", optimize.command),
    ("run", replay.command),
    ("evaluate", evaluate.command),
    ("inspect", inspect.command),
    ("explain", explain.command),
    ("verify", verify.command),
    ("compare", compare.command),
    ("bench", bench.command),
    ("plan", plan.command),
    ("emit", emit.command),
    ("up", up.command),
    ("status", status.command),
    ("deploy", deploy.command),
    ("canary", canary.command),
    ("promote", promote.command),
    ("rollback", rollback.command),
    ("predict", predict.command),
):
    app.command(
        name,
        cls=SettingsCommand if command is up.command else None,
        help=_flowing(command.__doc__ or ""),
        # predict says itself, in a line, what a pattern without quotes became.
        context_settings={"allow_extra_args": True} if command is predict.command else None,
    )(command)
app.add_typer(keys.app)


def run() -> None:
    """Entry point: run the command line and exit with the status that `Exit` describes."""
    received = interruption.watch()
    if "--json" in sys.argv:
        console.reserve_stdout()
    try:
        status = app(standalone_mode=False)
    except MlserveError as error:
        if _debug:
            raise
        if not received:
            console.print_error(error)
            console.print_json_error(error)
            sys.exit(exit_code(error))
        status = Exit.INTERRUPTED  # a library may make another error of a Ctrl-C
    except (KeyboardInterrupt, typer.Abort):
        status = Exit.INTERRUPTED
    except Exception as error:
        # Click's usage errors know how to show themselves and their exit status, 2.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            console.print_json_error(MlserveError(_usage(error)))
            sys.exit(error.exit_code)
        if _debug:
            raise
        if not received:
            console.print_error(_unforeseen(error))
            console.print_json_error(_unforeseen(error))
            sys.exit(Exit.REFUSED)
        status = Exit.INTERRUPTED
    if status == Exit.INTERRUPTED:  # Typer turns a KeyboardInterrupt into this status
        text = "interrupted; nothing half written was left behind"
        console.note(text)
        console.print_json_error(MlserveError(text))
        status = interruption.status(received)
    sys.exit(status if isinstance(status, int) else Exit.DONE)


def _usage(error: Exception) -> str:
    """What Click's error says, with the option that it is about; it shares no class with ours."""
    said = getattr(error, "format_message", None)
    return str(said() if said else error)


def _unforeseen(error: Exception) -> MlserveError:
    if isinstance(error, OSError) and error.strerror:
        what = f"'{error.filename}'" if error.filename else "a file"
        return MlserveError(
            f"{what} cannot be used: {error.strerror}.",
            hint="check the disk and its permissions; 'mlserve --debug …' shows where it happened",
        )
    if isinstance(error, MemoryError):
        return MlserveError(
            f"there is not enough memory{f': {error}' if str(error) else ''}.",
            hint="free some, raise the limit of this process, or use smaller batches and models",
        )
    return MlserveError(
        f"mlserve failed: {type(error).__name__}: {error}",
        hint="this is a bug; 'mlserve --debug …' shows the traceback to report",
    )
