"""Write the generated reference pages: `python docs/generate.py`; a test compares them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent / "reference"
_NOTICE = "<!-- Written by docs/generate.py. Change the source, then run scripts/lint. -->\n"


def commands() -> str:
    """The command reference: every command's help, its arguments and options."""
    import typer

    from mlserve_cli.cli.main import app

    root = typer.main.get_command(app)
    lines = [_NOTICE, "# Commands\n"]
    lines.append(
        "Every command that reports takes `--json`: one JSON document on stdout, all else on "
        'stderr. A command that fails prints `{"error": …, "hint": …}` there. '
        "Exit status: 0 done, 1 refused (with a `hint:`), 2 usage, 3 the server could "
        "not start, 130 interrupted. `mlserve --debug COMMAND` shows the traceback of an error.\n"
    )
    for name, command in _flat(root.commands):  # type: ignore[attr-defined]
        lines.append(f"## mlserve {name}\n")
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        lines.append("\n\n".join(textwrap.fill(each, 96) for each in paragraphs) + "\n")
        rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
        lines.append("| argument | what it is | default |\n|---|---|---|")
        lines.extend(rows)
        lines.append("")
    return "\n".join(lines)


def _flat(commands: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its whole name; those of a group one by one."""
    for name, command in commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield before + name, command
        else:
            yield from _flat(inner, f"{before}{name} ")


def settings() -> str:
    """The settings of a server: each with its type, default, meaning and environment variable."""
    import msgspec

    from mlserve_cli.runtime.reloading import LIVE
    from mlserve_cli.runtime.settings import TABLES, Settings

    lines = [_NOTICE, "# Settings of a server\n"]
    lines.append(
        "They stand in `server.toml`; an environment variable wins over the file, a flag of "
        "`mlserve up` over both. `mlserve up SOURCE --print-config` shows what holds and where it "
        "comes from.\n\n"
        "SIGHUP has a server read its file again. A setting marked *now* is taken then; the log "
        "names every other one that has changed, which waits for the next start.\n"
    )
    lines.append(
        "| setting | environment | default | SIGHUP | what it does |\n|---|---|---|---|---|"
    )
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        meta = getattr(field.type, "extra_json_schema", None) or {}
        if "description" not in meta:
            continue
        table = field.name in TABLES
        variable = "" if table else f"`MLSERVE_{field.name.upper()}`"
        default = "" if table else f"`{field.default!r}`"
        when = "now" if field.name in LIVE else ""
        lines.append(
            f"| `{field.name}` | {variable} | {default} | {when} | {meta['description']} |"
        )
    return "\n".join(lines) + "\n"


PAGES = {"commands.md": commands, "settings.md": settings}


def _row(parameter: object) -> str:
    names = ", ".join(f"`{name}`" for name in getattr(parameter, "opts", []))
    if getattr(parameter, "param_type_name", "") == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"  # type: ignore[attr-defined]
    text = re.sub(r"\s+", " ", getattr(parameter, "help", "") or "").replace("|", "\\|")
    default = getattr(parameter, "default", None)
    if getattr(parameter, "required", False):
        shown = "required"
    elif default in (None, False, (), []) or callable(default) or "UNSET" in repr(default).upper():
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    return f"| {names} | {text} | {shown} |"


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
