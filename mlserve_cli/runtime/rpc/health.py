"""`grpc.health.v1.Health`: is the server, or one model, ready to be asked. It never needs a key."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from ..errors import NotFound, RequestError
from .calls import Call, Calls, code_of, parse, sentence
from .schema import message

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..server import Server

SERVICE = "grpc.health.v1.Health"

RETRY_S = 5.0
"""After so long a model that broke is asked again: without traffic nobody else would notice that
it answers once more, and who watches sends none as long as it is not ready."""

_Request = message(f"{SERVICE}CheckRequest")
_Response = message(f"{SERVICE}CheckResponse")


class Health:
    """Answers the methods of the service.

    services: the names of the gRPC services that are served; the health of each is the server's.
    """

    def __init__(self, server: Server, services: Collection[str]) -> None:
        self._server = server
        self._services = services
        self._calls = Calls(server, "grpc-health")
        self._news = asyncio.Event()
        self._stopping = False

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The methods by name."""
        return {
            "Check": self._calls.unary(f"{SERVICE}/Check", _Request, self._check, scope=None),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def changed(self) -> None:
        """Something became ready, or ceased to be: let those who watch look again."""
        self._news.set()
        self._news = asyncio.Event()

    def stop(self) -> None:
        """End what is watched: a stream that never ends would hold the shutdown up."""
        self._stopping = True
        self.changed()

    async def _status(self, name: str) -> Any:
        if not name or name in self._services:
            ready = await self._server.readiness.server()
        elif self._server.registry.versions(name):
            ready = await self._server.readiness.model(name, None)
        else:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if ready else _Response.NOT_SERVING

    async def _check(self, sent: Any, call: Call) -> Any:
        status = await self._status(sent.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise NotFound(f"there is no service or model '{sent.service}'")
        return _Response(status=status)

    async def _watch(self, body: bytes, context: Any) -> None:
        """The status now, and whenever it is another one.

        A request that failed by itself is news, so a model that breaks is seen without being asked.
        """
        try:
            name = parse(_Request, body).service
        except RequestError as error:
            await context.abort(code_of(error), sentence(error))
        told: Any = None
        while not self._stopping:
            news = self._news
            status = await self._status(name)
            if status != told:
                told = status
                await context.write(_Response(status=status).SerializeToString())
                continue  # it may have changed while that was written
            patience_s = RETRY_S if status == _Response.NOT_SERVING else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await news.wait()
        await context.write(_Response(status=_Response.NOT_SERVING).SerializeToString())
