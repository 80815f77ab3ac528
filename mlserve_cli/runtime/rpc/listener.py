"""The gRPC server itself: its services, its limits, its sockets and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ..errors import SettingsError, StartupError
from ..monitoring import logs
from . import health, open_inference, reflection, tensorflow_serving
from .health import Health
from .open_inference import OpenInference
from .reflection import Reflection
from .tensorflow_serving import TensorflowServing

if TYPE_CHECKING:
    from ..server import Server
    from ..tls import Pair, Tls

log = logging.getLogger(f"{logs.NAME}.rpc")

_HEAD_BYTES = 64 << 10  # metadata of a request; the protocol's own default is 8 KiB


class RpcServer:
    """gRPC on some ports, as long as it is not stopped."""

    def __init__(
        self,
        grpc_server: Any,
        ports: list[int],
        watched: Health,
        certificates: Sequence[Certificate] = (),
    ) -> None:
        self.ports = ports
        self._server = grpc_server
        self._health = watched
        self._certificates = certificates  # one for each port, or none

    async def renew(self, tls: Tls) -> None:
        """Let connections that begin from now on have what the files of `tls` hold now."""
        if not self._certificates:
            return
        with contextlib.suppress(SettingsError):  # it was told when `tls` read them
            pair = await asyncio.to_thread(tls.pair)
            if pair is not None:
                for certificate in self._certificates:
                    certificate.renew(pair)

    def changed(self) -> None:
        """Tell those who watch the health that something became ready, or ceased to be."""
        self._health.changed()

    async def stop(self, grace_s: float | None) -> None:
        """Take no more calls, and give those in flight that long; then they are cut off."""
        self._health.stop()
        await self._server.stop(grace_s)


class Certificate:
    """What the connections of one port are wrapped with; it can be another one for those to come.

    Each port fetches for itself, and what has been fetched is not there for the others.
    """

    def __init__(self, pair: Pair) -> None:
        self._fresh: Any = None
        self.credentials = grpc.dynamic_ssl_server_credentials(_configuration(pair), self._fetch)

    def renew(self, pair: Pair) -> None:
        """Take another one."""
        self._fresh = _configuration(pair)

    def _fetch(self) -> Any:
        """Called by gRPC, on a thread of its own, as a connection begins; None: as before."""
        fresh, self._fresh = self._fresh, None
        return fresh


def _configuration(pair: Pair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)])


async def listen(server: Server, host: str, ports: Sequence[int]) -> RpcServer:
    """Start. Raises `StartupError` when a port cannot be had, and `SettingsError`."""
    limit_bytes = int(server.settings.max_body_mb * (1 << 20))
    listening = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _HEAD_BYTES),
            # Else two servers could share a port, and each get some of the other's calls.
            ("grpc.so_reuseport", 0),
        ]
    )
    open_ = OpenInference(server)
    tensorflow = TensorflowServing(server, limit_bytes=limit_bytes)
    handlers = {
        open_inference.SERVICE: open_.handlers(),
        tensorflow_serving.PREDICTION: tensorflow.prediction_handlers(),
        tensorflow_serving.MODEL: tensorflow.model_handlers(),
    }
    reflected = [f"{package}.ServerReflection" for package in reflection.PACKAGES]
    services = [*handlers, health.SERVICE, *reflected]
    watched = Health(server, services)
    handlers[health.SERVICE] = watched.handlers()
    for package in reflection.PACKAGES:
        reflecting = Reflection(package, services)
        handlers[reflecting.service] = reflecting.handlers()
    listening.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, methods) for name, methods in handlers.items()]
    )
    pair = server.tls.pair()
    certificates: list[Certificate] = []
    address = f"[{host}]" if ":" in host else host
    bound = []
    for port in ports:
        try:
            if pair is None:
                bound.append(listening.add_insecure_port(f"{address}:{port}"))
            else:
                certificate = Certificate(pair)
                certificates.append(certificate)
                bound.append(
                    listening.add_secure_port(f"{address}:{port}", certificate.credentials)
                )
        except RuntimeError as error:
            await listening.stop(None)
            raise StartupError(
                f"the server cannot listen at {host}:{port} for gRPC: the port is taken, or the "
                "address is not this machine's.",
                hint="set grpc_port or MLSERVE_GRPC_PORT to another port; 0 takes a free one",
            ) from error
    await listening.start()
    return RpcServer(listening, bound, watched, certificates)
