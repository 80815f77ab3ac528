"""`inference.GRPCInferenceService`: the Open Inference Protocol and Triton's extensions of it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseDict

from .. import compat
from ..errors import InvalidRequest, NotFound, NotImplementedHere, Overloaded, RequestError
from ..monitoring import statistics
from ..protocols import health, oip_config, oip_messages
from ..protocols.classification import classify
from ..protocols.defaults import default
from . import infer_messages
from .calls import Call, Calls, Scope
from .infer_stream import InferStream
from .schema import message, pool

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..protocols.oip_messages import InferRequest
    from ..registry import LoadedModel
    from ..server import Server

_VERSION = Path(__file__).parent.parent / "VERSION"

SERVICE = "inference.GRPCInferenceService"

_COPIED = "send tensors in raw_input_contents"
_ABSENT = {  # how the names of methods begin → why they are not offered, and what to do instead
    "SystemSharedMemory": ("system shared memory is not served", _COPIED),
    "CudaSharedMemory": ("CUDA shared memory is not served", _COPIED),
    "TraceSetting": (
        "what is traced cannot be changed by a request",
        "set traces to 'otlp', and OpenTelemetry's own variables",
    ),
    "LogSettings": (
        "what is logged cannot be changed by a request",
        "change log_format or access_log in the server's settings",
    ),
}


class OpenInference:
    """Answers the methods of the service."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._calls = Calls(server, "oip-grpc")

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Every method by name."""
        methods: dict[str, tuple[Callable[[Any, Call], Awaitable[Any]], Scope | None]] = {
            "ServerLive": (self._live, None),
            "ServerReady": (self._ready, None),
            "ServerMetadata": (self._metadata, "infer"),
            "ModelReady": (self._model_ready, None),
            "ModelMetadata": (self._model_metadata, "infer"),
            "ModelInfer": (self.infer, "infer"),
            "ModelConfig": (self._config, "infer"),
            "ModelStatistics": (self._statistics, "infer"),
            "RepositoryIndex": (self._index, "infer"),
            "RepositoryModelLoad": (self._load, "admin"),
            "RepositoryModelUnload": (self._unload, "admin"),
        }
        stream = InferStream(self._calls, f"{SERVICE}/ModelStreamInfer", self.infer)
        found = {"ModelStreamInfer": stream.handler()}
        for method in pool.FindServiceByName(SERVICE).methods:
            if method.name in found:
                continue
            answer, scope = methods.get(method.name) or (partial(_absent, method.name), "infer")
            kind = message(method.input_type.full_name)
            found[method.name] = self._calls.unary(
                f"{SERVICE}/{method.name}",
                kind,
                answer,
                scope=scope,
                counted=method.name == "ModelInfer",
            )
        return found

    async def infer(self, sent: Any, call: Call) -> Any:
        """Decode, infer, encode: one request, alone or of a stream. May raise `RequestError`."""
        try:
            request = infer_messages.request_of(sent)
            field = partial(oip_messages.value_of, request)
            model = self._calls.route(call, sent.model_name, sent.model_version, field=field)
            manifest = model.manifest
            deadline = call.deadline(oip_messages.timeout_us(request))
            call.priority = oip_messages.priority(request)
            call.alias = sent.id
            names = _wanted(manifest, request)
            tensors = infer_messages.tensors_of(manifest, request, sent)
            call.let_go()
            outputs = await self._server.dataplane.infer(
                model,
                tensors,
                deadline=deadline,
                priority=call.priority,
                timing=call.timing,
                asked=call,
            )
            outputs = {name: outputs[name] for name in names}
            for output in request.outputs:
                count = oip_messages.classes(output)
                if count:
                    outputs[output.name] = classify(outputs[output.name], count, manifest.labels)
        except RequestError as error:
            if isinstance(error, Overloaded):
                error.message = f"{oip_messages.FULL}: {error.message}"
            if sent.id:
                error.message = f"[request id: {sent.id}] {error.message}"
            raise
        return infer_messages.reply(manifest, request, outputs, raw=bool(sent.raw_input_contents))

    async def _live(self, sent: Any, call: Call) -> Any:
        return message("inference.ServerLiveResponse")(live=True)

    async def _ready(self, sent: Any, call: Call) -> Any:
        return message("inference.ServerReadyResponse")(ready=await self._server.readiness.server())

    async def _metadata(self, sent: Any, call: Call) -> Any:
        return message("inference.ServerMetadataResponse")(
            name=compat.server_name(self._server.settings),
            version=_VERSION.read_text(encoding="utf-8").strip(),
            extensions=health.EXTENSIONS,
        )

    async def _model_ready(self, sent: Any, call: Call) -> Any:
        ready = await self._server.readiness.model(sent.name, sent.version or None)
        return message("inference.ModelReadyResponse")(ready=ready)

    async def _model_metadata(self, sent: Any, call: Call) -> Any:
        manifest = self._model(sent).manifest
        described = health.describe(manifest, self._server.registry.versions(manifest.name))
        return ParseDict(described, message("inference.ModelMetadataResponse")())

    async def _config(self, sent: Any, call: Call) -> Any:
        config = oip_config.model_config(self._model(sent))
        # Ours is the part of Triton's message that says something here.
        return ParseDict(
            {"config": config},
            message("inference.ModelConfigResponse")(),
            ignore_unknown_fields=True,
        )

    async def _statistics(self, sent: Any, call: Call) -> Any:
        models: Iterable[LoadedModel]
        if sent.version or not sent.name:
            models = [self._model(sent)] if sent.name else self._server.registry.models()
        else:
            self._model(sent)  # or there is none of that name
            models = [
                model
                for model in self._server.registry.models()
                if model.manifest.name == sent.name
            ]
        return ParseDict(
            {"model_stats": [statistics.statistics(model) for model in models]},
            message("inference.ModelStatisticsResponse")(),
            ignore_unknown_fields=True,
        )

    async def _index(self, sent: Any, call: Call) -> Any:
        _check_repository(sent)
        found = message("inference.RepositoryIndexResponse")()
        for status in self._server.lifecycle.index():
            if status.state == "READY" or not sent.ready:
                found.models.add(
                    name=status.name,
                    version=status.version,
                    state=status.state,
                    reason=status.reason or "",
                )
        return found

    async def _load(self, sent: Any, call: Call) -> Any:
        _check_repository(sent)
        name = sent.model_name
        for parameter in sent.parameters:
            if parameter == "config" or parameter.startswith("file:"):
                raise NotImplementedHere(
                    f"'{name}' cannot be loaded with '{parameter}' of the request's own: "
                    "models come from the server's repository",
                    hint="put a package into the repository, and load it without parameters",
                )
        try:
            await self._server.operations.load(name, caller=call.caller())
        except NotFound as error:
            # What Triton says, and its status: its clients look for this text.
            failed = NotFound(
                f"failed to load '{name}', failed to poll from model repository", hint=error.hint
            )
            failed.status = 500
            raise failed from error
        return message("inference.RepositoryModelLoadResponse")()

    async def _unload(self, sent: Any, call: Call) -> Any:
        _check_repository(sent)
        if sent.parameters["unload_dependents"].bool_param:
            raise NotImplementedHere(
                f"what '{sent.model_name}' is made of cannot be unloaded with it",
                hint="unload each model by its own name",
            )
        with contextlib.suppress(NotFound):  # as in Triton: it is not loaded, and that was wanted
            await self._server.operations.unload(sent.model_name, caller=call.caller())
        return message("inference.RepositoryModelUnloadResponse")()

    def _model(self, sent: Any) -> LoadedModel:
        """The model of a request that only asks, and so takes no part in sharing its traffic."""
        if sent.version:
            return self._server.registry.get(sent.name, sent.version)
        return default(self._server, sent.name)


async def _absent(name: str, sent: Any, call: Call) -> Any:
    for beginning, (why, hint) in _ABSENT.items():
        if name.startswith(beginning):
            raise NotImplementedHere(why, hint=hint)
    raise NotImplementedHere(f"'{name}' is not served")


def _check_repository(sent: Any) -> None:
    """Refuse a repository's name: there is one, and it has none."""
    if sent.repository_name:
        raise NotImplementedHere(
            f"'{sent.repository_name}' names a repository, and the server's has no name",
            hint="leave the name out",
        )


def _wanted(manifest: Manifest, request: InferRequest) -> list[str]:
    """The names of the outputs to send, in the order that they were asked for."""
    names = [spec.name for spec in manifest.outputs]
    for output in request.outputs:
        if output.name not in names:
            raise InvalidRequest(
                f"unexpected inference output '{output.name}' for model '{manifest.name}'",
                hint="its outputs are " + ", ".join(names),
            )
        spec = manifest.outputs[names.index(output.name)]
        if oip_messages.classes(output) and spec.datatype == "BYTES":
            raise InvalidRequest(
                f"output '{spec.name}' of model '{manifest.name}' is text (BYTES), "
                "and classes can be given for numbers only",
                hint="leave 'classification' out and read the tensor",
            )
    return [output.name for output in request.outputs] or names
