"""What a person sees: data on stdout, all else on stderr, errors as a sentence and a hint."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from mlserve_cli.errors import MlserveError


def stdout() -> Console:
    """The console for what was asked for: tables and answers."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """The console for all else: progress, notes, errors, the next command."""
    from rich.console import Console

    # Wrapped by the terminal, not by us: a command that is copied must stay one line.
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout; `schema` is 1 where the document itself says no other."""
    text = json.dumps(_finite({"schema": 1, **document}), indent=2, default=str) + "\n"
    global _printed
    _printed = True
    target = _document or sys.stdout
    target.write(text)
    target.flush()


def _finite(value: Any) -> Any:
    """JSON (RFC 8259, section 6) knows no Infinity and no NaN: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value


def print_json_error(error: MlserveError) -> None:
    """The document of a command that was asked for one and ends without: what went wrong."""
    if _document is not None and not _printed:
        print_json({"error": error.message, "hint": error.hint})


_printed = False
_document: TextIO | None = None
"""Where the one document goes, while all else that is printed goes to stderr."""


def reserve_stdout() -> None:
    """Keep stdout for the one JSON document: what models and libraries print goes to stderr."""
    global _document
    sys.stdout.flush()
    _document = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also for what is not written by Python, and for child processes
    sys.stdout = sys.stderr


def print_error(error: MlserveError) -> None:
    """`error:` and `hint:` on stderr."""
    from rich.text import Text

    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), error.message))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), error.hint))


def note(text: str) -> None:
    """A line on stderr, as it is."""
    stderr().print(text, markup=False)


def next_command(command: str) -> None:
    """The useful command to go on with, on stderr."""
    from rich.text import Text

    stderr().print(Text.assemble(("next: ", "dim"), command))


class LiveProgress:
    """A progress bar on stderr; where that is no terminal, a line a stage."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._task: Any = None

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin a stage; the one before is done."""
        if self._bar is None:
            note(f"{text} …")
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps of this stage."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, note=note)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            note(text)


@contextmanager
def progress() -> Iterator[LiveProgress]:
    """Show progress for as long as the block runs; temporary files lie in a folder of its own."""
    from mlserve_cli.cli import temporary

    with temporary.folder(), _shown() as shown:
        yield shown


@contextmanager
def _shown() -> Iterator[LiveProgress]:
    if not sys.stderr.isatty():
        yield LiveProgress(None)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        yield LiveProgress(bar)
