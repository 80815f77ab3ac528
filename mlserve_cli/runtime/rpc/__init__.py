"""gRPC: the Open Inference Protocol, TensorFlow Serving, health and reflection on one port.

Nothing here is imported before it is asked for: it needs grpcio and protobuf, the extra `grpc`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import StartupError

if TYPE_CHECKING:
    from ..server import Server
    from .listener import RpcServer


async def start(server: Server, host: str, ports: Sequence[int]) -> RpcServer:
    """Answer gRPC at `host` and each of `ports` (0: a free one), until it is stopped.

    Raises `StartupError` when the extra is missing or a port cannot be had.
    """
    for library in ("grpc", "google.protobuf"):
        if not _installed(library):
            raise StartupError(
                "gRPC was asked for, and grpcio and protobuf are not installed.",
                hint="pip install 'mlserve-cli[grpc]', or leave grpc_port out",
            )
    from .listener import listen

    return await listen(server, host, ports)


def _installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # there is no `google` at all
        return False
