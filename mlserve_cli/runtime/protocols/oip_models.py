"""What Triton adds to the Open Inference Protocol about its models, over REST.

Their configuration and statistics, and the model repository: what is there, load, unload. None of
these is hot.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import body as bodies
from .. import json_text
from ..errors import InvalidRequest, NotFound, NotImplementedHere
from ..gate import caller
from ..monitoring.statistics import statistics
from .defaults import default
from .oip_config import model_config

if TYPE_CHECKING:
    from ..server import Server


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _ControlRequest(msgspec.Struct):
    parameters: dict[str, Any] = {}


_index_decoder = msgspec.json.Decoder(_IndexRequest)
_control_decoder = msgspec.json.Decoder(_ControlRequest)


class OipModels:
    """Starlette endpoints about the models of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limit_bytes = int(server.settings.max_body_mb * (1 << 20))

    async def config(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]/config`."""
        name, version = request.path_params["model"], request.path_params.get("version")
        if version is None:
            return JSONResponse(model_config(default(self._server, name)))
        return JSONResponse(model_config(self._server.registry.get(name, version)))

    async def statistics(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]/stats`; without a version, all of them."""
        name, version = request.path_params["model"], request.path_params.get("version")
        registry = self._server.registry
        asked = registry.versions(name) if version is None else [version]
        models = [registry.get(name, one) for one in asked] or [registry.get(name)]
        return JSONResponse({"model_stats": [statistics(model) for model in models]})

    async def all_statistics(self, request: Request) -> Response:
        """`GET /v2/models/stats`."""
        models = self._server.registry.models()
        return JSONResponse({"model_stats": [statistics(model) for model in models]})

    async def index(self, request: Request) -> Response:
        """`POST /v2/repository/index`: every version that is there, loaded or not."""
        _check_repository(request)
        body = await self._body(request)
        only_ready = json_text.decode(body, _index_decoder).ready if body else False
        return JSONResponse(
            [
                _entry(status.name, status.version, status.state, status.reason)
                for status in self._server.lifecycle.index()
                if status.state == "READY" or not only_ready
            ]
        )

    async def load(self, request: Request) -> Response:
        """`POST /v2/repository/models/{model}/load`: load it, or again if it changed on disk."""
        _check_repository(request)
        name = request.path_params["model"]
        parameters = await self._parameters(request)
        for parameter in parameters:
            if parameter == "config" or parameter.startswith("file:"):
                raise NotImplementedHere(
                    f"'{name}' cannot be loaded with '{parameter}' of the request's own: "
                    "models come from the server's repository",
                    hint="put a package into the repository, and load it without parameters",
                )
        try:
            await self._server.operations.load(name, caller=caller(request))
        except NotFound as error:
            # What Triton says, and its status: its clients look for this text.
            failed = NotFound(
                f"failed to load '{name}', failed to poll from model repository", hint=error.hint
            )
            failed.status = 500
            raise failed from error
        return Response()

    async def unload(self, request: Request) -> Response:
        """`POST /v2/repository/models/{model}/unload`; one that is not loaded is no error."""
        _check_repository(request)
        name = request.path_params["model"]
        parameters = await self._parameters(request)
        if parameters.get("unload_dependents"):
            raise NotImplementedHere(
                f"what '{name}' is made of cannot be unloaded with it",
                hint="unload each model by its own name",
            )
        with contextlib.suppress(NotFound):  # as in Triton: not loaded is what was wanted
            await self._server.operations.unload(name, caller=caller(request))
        return Response()

    async def _parameters(self, request: Request) -> dict[str, Any]:
        body = await self._body(request)
        return json_text.decode(body, _control_decoder).parameters if body else {}

    async def _body(self, request: Request) -> bytes:
        headers = dict(request.scope["headers"])
        limit = self._limit_bytes
        try:
            sent = await bodies.read(headers, request.receive, limit_bytes=limit)
        except bodies.Disconnected as error:
            raise InvalidRequest("the client left before its request was here") from error
        return await bodies.unpack(headers, sent, limit_bytes=limit)


def _check_repository(request: Request) -> None:
    """Refuse a repository's name in the path: there is one, and it has none."""
    repository = request.path_params.get("repository")
    if repository is not None:
        raise NotImplementedHere(
            f"'{repository}' names a repository, and the server's has no name",
            hint="leave the name out: /v2/repository/index",
        )


def _entry(name: str, version: str, state: str, reason: str | None) -> dict[str, str]:
    entry = {"name": name, "version": version, "state": state}
    if reason:
        entry["reason"] = reason
    return entry
