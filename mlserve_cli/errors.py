"""Errors of the toolchain, and the exit codes they end in.

    MlserveError                  (runtime.errors) a sentence and a hint
    ├── everything in runtime.errors
    ├── DefinitionError           the user's model definition is missing something or raised
    ├── DataError                 a data file cannot be read or does not fit the signature
    ├── MissingExtra              a library that one command needs is not installed
    ├── StepError                 a step cannot be applied to this package, or its result is wrong
    └── Refused                   the result exists, but a gate refused it; it was kept beside

A person sees the sentence and the hint on stderr, never a traceback unless `--debug`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from mlserve_cli.runtime.errors import (
    EngineError,
    MlserveError,
    PackageError,
    SettingsError,
    StartupError,
    without_secrets,
)

__all__ = [
    "DataError",
    "DefinitionError",
    "EngineError",
    "Exit",
    "MissingExtra",
    "MlserveError",
    "PackageError",
    "Refused",
    "SettingsError",
    "StartupError",
    "StepError",
    "exit_code",
    "first_line",
    "needs_extra",
    "without_secrets",
]


class Exit(IntEnum):
    """What a command's exit status means."""

    DONE = 0
    REFUSED = 1  # our error, with a hint
    USAGE = 2  # the command line itself is wrong
    SERVER = 3  # the server could not start
    INTERRUPTED = 130  # Ctrl-C, as shells report SIGINT


class DefinitionError(MlserveError):
    """The user's model definition is missing something or raised."""


class DataError(MlserveError):
    """A data file cannot be read or does not fit the signature."""


class MissingExtra(MlserveError):
    """A library that one command needs is not installed."""


class StepError(MlserveError):
    """A step cannot be applied to this package, or its result is wrong."""


class Refused(MlserveError):
    """The result exists, but a gate refused it; it was kept beside."""


def exit_code(error: MlserveError) -> Exit:
    """The exit status that a command ends with when `error` reaches its top."""
    return Exit.SERVER if isinstance(error, StartupError) else Exit.REFUSED


def first_line(error: BaseException) -> str:
    """The first line of a library's error, without its full stop, to be put into a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.partition("\n")[0].removesuffix(".")


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn an ImportError inside the block into a sentence that names the extra to install.

    `purpose` finishes the sentence "… is needed to", for example "export PyTorch models".
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise MissingExtra(
            f"'{missing}' is needed to {purpose}, and it is not installed.",
            hint=f"pip install 'mlserve-cli[{extra}]'",
        ) from error
