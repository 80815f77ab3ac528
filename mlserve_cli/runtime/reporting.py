"""Our own errors as a sentence and a hint, where no command line stands above the server."""

from __future__ import annotations

import sys
from types import TracebackType

from .errors import MlserveError

COULD_NOT_START = 3
"""The exit status, as `mlserve up` has it."""


def install() -> None:
    """Show an error of ours that nobody caught as a sentence, and exit with `COULD_NOT_START`.

    All others keep their traceback.
    """
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, MlserveError):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    sys.stderr.flush()
    raise SystemExit(COULD_NOT_START)  # the interpreter takes this from a hook as its own status
