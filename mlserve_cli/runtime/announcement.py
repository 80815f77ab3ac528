"""What a server says once it is ready: where it is, and a line that tries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import MlserveError
from .example import curl_line

if TYPE_CHECKING:
    from .server import Server


def lines(server: Server, url: str) -> list[str]:
    """The address, the page and a curl line that works, for the first of the models."""
    said = [f"serving at {url}  (Ctrl-C stops it)", f"page: {url}/"]
    for model in server.registry.models()[:1]:
        try:
            said.append(f"try:  {curl_line(model, url, processor=model.processor)}")
        except MlserveError:  # golden rows that cannot be shown do not keep a server from serving
            continue
    return said
