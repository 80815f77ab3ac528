"""Standing in for another server: the ports that its clients look for.

Every protocol is answered at every port; `compat` only adds the usual ones, so that a client's
configuration needs no change.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True, slots=True)
class Ports:
    """Where another server listens by default: HTTP (metrics too) and gRPC."""

    http: tuple[int, ...]
    grpc: tuple[int, ...] = ()


PORTS = {
    "triton": Ports(http=(8000, 8002), grpc=(8001,)),
    "tensorflow-serving": Ports(http=(8501,), grpc=(8500,)),
    # TorchServe's own gRPC service (7070, 7071) is not served.
    "torchserve": Ports(http=(8080, 8081, 8082)),
}


def http_ports(settings: Settings) -> list[int]:
    """Every port to answer HTTP at, the server's own first, each once."""
    return _once(settings.port, [port for name in settings.compat for port in PORTS[name].http])


def grpc_ports(settings: Settings) -> list[int]:
    """Every port to answer gRPC at, the server's own first; none where gRPC is off.

    The usual ports of `compat` are left out where the extra `grpc` is not installed: HTTP still
    stands in for the other server. A `grpc_port` of one's own is a demand, and fails later.
    """
    usual = [port for name in settings.compat for port in PORTS[name].grpc]
    if settings.grpc_port is not None:
        return _once(settings.grpc_port, usual)
    return usual if importlib.util.find_spec("grpc") is not None else []


def server_name(settings: Settings) -> str:
    """What the server calls itself in the Open Inference Protocol: some clients want `triton`."""
    return "triton" if "triton" in settings.compat else "mlserve"


def _once(own: int, usual: list[int]) -> list[int]:
    return [own, *dict.fromkeys(port for port in usual if port != own)]
