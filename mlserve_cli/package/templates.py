"""Where the templates lie that `emit` and `init` copy from: in the wheel, or in a source tree."""

from __future__ import annotations

from pathlib import Path

from mlserve_cli.errors import MlserveError

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "_templates", _PACKAGE.parent / "templates")


def folder(name: str) -> Path:
    """The folder `templates/<name>`, for example "server" or "definition/image"."""
    for place in _PLACES:
        if (place / name).is_dir():
            return place / name
    raise MlserveError(
        f"the template '{name}' is missing from this installation.",
        hint="install mlserve-cli again",
    )
