"""What a server says once it is ready: where it is, and a line that tries it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .errors import MlserveError
from .example import curl_line

if TYPE_CHECKING:
    from .server import Server


def lines(server: Server, url: str) -> list[str]:
    """The address, the page and a curl line that works, for the first of the models."""
    said = [f"serving at {url}  (Ctrl-C stops it)", f"page: {url}/"]
    said += [f"gRPC: {address}" for address in grpc_addresses(server, url)]
    for model in server.registry.models()[:1]:
        try:
            key = bool(server.settings.keys)
            line = curl_line(model, url, processor=model.processor, key=key)
            said.append(f"try:  {line}")
        except MlserveError:  # golden rows that cannot be shown do not keep a server from serving
            continue
    return said


def grpc_addresses(server: Server, url: str) -> list[str]:
    """`host:port` of each port that answers gRPC, as a client of this machine writes it."""
    host = urlsplit(url).netloc.rpartition(":")[0]
    return [] if server.rpc is None else [f"{host}:{port}" for port in server.rpc.ports]
