"""TensorFlow Serving's REST API, which KServe's version 1 protocol shares.

    POST /v1/models/{model}[/versions/N|/labels/L]:predict|:classify|:regress|:explain
    GET  /v1/models                                   the names of the models
    GET  /v1/models/{model}[/versions/N|/labels/L]    states of its versions; whether it is ready
    GET  /v1/models/{model}[…]/metadata               its signature

Paths are matched here and not by the router: one route for all of them keeps the others quick, and
their letters may be of any case, as there.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import json_text
from ..errors import InvalidRequest, NotFound, NotImplementedHere, RequestError
from ..processing import payload
from ..tensors import Tensors, rows
from . import tensorflow_examples, tensorflow_json, tensorflow_status
from .defaults import default
from .endpoint import Call, Endpoint, Reply
from .tensorflow_examples import Method

if TYPE_CHECKING:
    from ..registry import LoadedModel
    from ..server import Server

_NAMED = r"/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
_ACTION = re.compile(rf"models{_NAMED}:(?P<action>\w+)", re.IGNORECASE)
_STATUS = re.compile(rf"models(?:/|{_NAMED}(?P<metadata>/metadata)?)?", re.IGNORECASE)

T = TypeVar("T")

_THREAD_BYTES = 256 << 10
"""Decoding more JSON than this holds the event loop up for over a millisecond."""


class Predictions(Endpoint):
    """`POST /v1/models/…:predict`, `:classify`, `:regress`."""

    protocol = "tensorflow-rest"

    async def answer(self, call: Call) -> Reply:
        """Decode, infer, encode."""
        path = call.parameters["path"]
        found = _ACTION.fullmatch(path)
        action = found["action"].lower() if found else None
        if found is None or action not in ("predict", "classify", "regress", "explain"):
            raise InvalidRequest(
                f"Malformed request: POST /v1/{path}",
                hint="POST /v1/models/MODEL:predict, :classify or :regress",
            )
        if action == "explain":
            raise NotImplementedHere(
                f"model '{found['model']}' has no explainer",
                hint="':predict' answers with its outputs",
            )
        call.parameters = {
            name: found[name] for name in ("model", "version", "label") if found[name] is not None
        }
        if not _sticks_to_field(self.server, found["model"]):
            self._route(call)  # before the body is read: what is unknown costs nothing
        body = await self.body(call)
        document = await self._decoded(len(body), partial(tensorflow_json.parse, body))
        model = call.model or self._route(call, document)
        deadline = call.deadline()
        with call.watch:
            match action:
                case "classify" | "regress":
                    text = await self._examples(
                        call, model, document, deadline, len(body), method=action
                    )
                case _:
                    text = await self._predict(call, model, document, deadline, len(body))
        return Reply(text)

    def _route(self, call: Call, document: dict[str, Any] | None = None) -> LoadedModel:
        try:
            return self.model(call, field=partial(payload.lookup, document or {}))
        except NotFound as error:
            raise unknown(call.parameters, error) from error

    async def _predict(
        self,
        call: Call,
        model: LoadedModel,
        document: dict[str, Any],
        deadline: float | None,
        size: int,
    ) -> bytes:
        decode = partial(tensorflow_json.decode, model.manifest, document)
        decoded = await self._decoded(size, decode)
        outputs = await self._infer(call, model, decoded.tensors, deadline)
        encode = partial(tensorflow_json.encode, outputs, decoded.form, rows(decoded.tensors))
        if sum(array.nbytes for array in outputs.values()) <= _THREAD_BYTES // 4:
            return encode()
        return await asyncio.to_thread(encode)

    async def _examples(
        self,
        call: Call,
        model: LoadedModel,
        document: dict[str, Any],
        deadline: float | None,
        size: int,
        *,
        method: Method,
    ) -> bytes:
        manifest = model.manifest
        name = tensorflow_examples.output_of(manifest, method, tensorflow_json.signature(document))
        examples = tensorflow_examples.examples(document)
        if tensorflow_examples.by_processing(manifest):
            work = partial(tensorflow_examples.processed, manifest, model.processor, examples)
            with self.server.dataplane.hold(size):
                tensors = await asyncio.to_thread(work)
        else:
            tensors = tensorflow_examples.tensors(manifest, examples)
        outputs = await self._infer(call, model, tensors, deadline)
        array = tensorflow_examples.rows_of(name, outputs, len(examples))
        results: list[Any]
        if method == "classify":
            results = tensorflow_examples.classes(manifest, name, array)
        else:
            results = tensorflow_examples.values(name, array)
        return json_text.encode({"results": results}, finite=False)

    async def _decoded(self, size: int, work: partial[T]) -> T:
        """Decode a long body of `size` bytes on a thread, a short one here.

        A hop costs more than it saves there; and what waits for a thread is in memory, and counts.
        """
        if size <= _THREAD_BYTES:
            return work()
        with self.server.dataplane.hold(size):
            return await asyncio.to_thread(work)

    async def _infer(
        self, call: Call, model: LoadedModel, tensors: Tensors, deadline: float | None
    ) -> Tensors:
        return await self.server.dataplane.infer(
            model,
            tensors,
            deadline=deadline,
            priority=call.priority,
            timing=call.timing,
            asked=call,
        )


class Models:
    """Starlette endpoints about the models: `GET /v1/…`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def get(self, request: Request) -> Response:
        """Names, states or a signature, by the path."""
        path = request.path_params["path"]
        found = _STATUS.fullmatch(path)
        if found is None:
            raise InvalidRequest(f"Malformed request: {request.method} /v1/{path}")
        if found["model"] is None:
            return JSONResponse({"models": self._names()})
        if found["metadata"]:
            return JSONResponse(tensorflow_status.metadata(self._loaded(found).manifest))
        return await self._status(found)

    def _names(self) -> list[str]:
        return sorted({status.name for status in self._server.lifecycle.index()})

    def _loaded(self, found: re.Match[str]) -> LoadedModel:
        name, version, label = found["model"], found["version"], found["label"]
        try:
            if label is not None:
                return self._server.traffic.route(name, label=label)
            if version is not None:
                return self._server.registry.get(name, version)
            return default(self._server, name)
        except NotFound as error:
            raise unknown(found.groupdict(), error) from error

    async def _status(self, found: re.Match[str]) -> Response:
        name, version = found["model"], found["version"]
        if found["label"] is not None:
            version = self._loaded(found).manifest.version
        known = [item for item in self._server.lifecycle.index() if item.name == name]
        asked = [item for item in known if version is None or item.version == version]
        if not asked:
            if known:
                raise NotFound(
                    f"Could not find version {version} of model {name}",
                    hint="its versions are " + ", ".join(item.version for item in known),
                )
            names = ", ".join(self._names()) or "none"
            raise NotFound(
                f"Could not find any versions of model {name}", hint=f"the models are {names}"
            )
        # KServe takes 503 for "not ready"; its version 1 has no other word for it.
        loaded = any(item.state == "READY" for item in asked)
        ready = loaded and await self._server.readiness.model(name, version)
        states = [(item.version, item.state, item.reason or "") for item in asked]
        document = {
            "name": name,
            "ready": ready,
            "model_version_status": tensorflow_status.status(states),
        }
        return JSONResponse(document, 200 if ready else 503)


def unknown(named: dict[str, Any], error: NotFound) -> RequestError:
    """What TensorFlow Serving says where there is no such model, version or label."""
    name, version, label = (named.get(key) for key in ("model", "version", "label"))
    if label is not None:
        return InvalidRequest(f"Unrecognized servable version label: {label}", hint=error.hint)
    which = "Latest" if version is None else "Specific"
    wanted = name if version is None else f"{name}, {version}"
    return NotFound(f"Servable not found for request: {which}({wanted})", hint=error.hint)


def _sticks_to_field(server: Server, name: str) -> bool:
    """Whether a value in the request decides which version answers."""
    rule = server.traffic.rule(name)
    return rule is not None and (rule.sticky or "").startswith("field:")
