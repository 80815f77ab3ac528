"""TorchServe's inference API: `/ping`, `/predictions/{model}[/{version}]` and its aliases.

A body is what the package's processing takes: a file, JSON, text, CSV, or a form with such a part
(`data`). What is answered is the handler's answer alone, as there: an object for a row, a list for
a list of rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from .. import json_text
from ..errors import InvalidRequest, NotFound, NotImplementedHere, RequestError
from . import errors, torchserve_errors
from .endpoint import JSON, Call, Reply
from .predict import Predict

if TYPE_CHECKING:
    from ..registry import LoadedModel
    from ..server import Server

_LIST = re.compile(rb'\s*(?:\[\s*[\[{"]|\{\s*"(?:instances|rows)"\s*:)')
"""How a body begins whose rows stand in a list; a bare list of numbers is one row of a table."""


class Predictions(Predict):
    """`POST` and `PUT /predictions/{model}[/{version}]`."""

    protocol = "torchserve"

    async def answer(self, call: Call) -> Reply:
        """Predict; where the path names no model, with the only one there is."""
        if "model" not in call.parameters:
            call.parameters = {"model": self._only()}
        return await super().answer(call)

    def model(self, call: Call, *, field: Callable[[str], str | None] | None = None) -> LoadedModel:
        """The model that answers. Raises `NotFound` as TorchServe words it."""
        try:
            return super().model(call, field=field)
        except NotFound as error:
            name, version = call.parameters["model"], call.parameters.get("version")
            known = self.server.registry.versions(name)
            raise torchserve_errors.no_model(name, version, known) from error

    def reply(self, model: LoadedModel, body: bytes, predictions: list[Any]) -> Reply:
        """The bare answers."""
        alone = len(predictions) == 1 and _LIST.match(body) is None
        return Reply(json_text.encode(predictions[0] if alone else predictions))

    def refuse(self, error: RequestError) -> Reply:
        """As TorchServe words it."""
        headers = [JSON, *errors.headers(error)]
        return Reply(torchserve_errors.encode(error), error.status, headers)

    def unexpected(self, error: Exception) -> Reply:
        """As TorchServe words it."""
        return Reply(torchserve_errors.unexpected(error), 500)

    def _only(self) -> str:
        names = sorted({model.manifest.name for model in self.server.registry.models()})
        if len(names) != 1:
            raise InvalidRequest(
                f"the path names no model, and there are {len(names)}",
                hint="POST /predictions/MODEL; the models are " + (", ".join(names) or "none"),
            )
        return names[0]


class Explanations(Predictions):
    """`POST /explanations/{model}[/{version}]`."""

    async def answer(self, call: Call) -> Reply:
        """Say that there are none."""
        model = self.model(call)
        raise NotImplementedHere(
            f"model '{model.manifest.name}' has no explainer",
            hint="/predictions answers with its outputs",
        )


class Ping:
    """`GET /ping`, the health check of TorchServe and of SageMaker."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def ping(self, request: Request) -> Response:
        """Healthy only while a prediction would succeed; 500 is TorchServe's word for not."""
        ready = await self._server.readiness.server()
        text = '{\n  "status": "%s"\n}\n' % ("Healthy" if ready else "Unhealthy")
        return Response(text, 200 if ready else 500, media_type="application/json")
