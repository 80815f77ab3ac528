"""How long work tells a person where it is, without knowing how that is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shown on stderr by the command line; silent elsewhere."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin a stage; `total` steps if that is known."""
        ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps of this stage; `note` is a short live figure ("loss 0.31")."""
        ...

    def say(self, text: str) -> None:
        """Print a line that stays."""
        ...


class Silent:
    """A progress that nobody watches."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""
