"""The admin API, `/admin/v1/…`: what runs, and every operation on it, as JSON over HTTP.

It asks for the scope `admin`, which the guard in front of it sees to. Bodies are checked strictly:
an operation with a misspelt field is refused, not half done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import body
from .errors import Conflict, Forbidden, InvalidRequest, NotFound
from .gate import caller
from .manifest import MANIFEST
from .traffic import TrafficRule
from .uploads import unpacked

if TYPE_CHECKING:
    from .index import ModelStatus
    from .server import Server

T = TypeVar("T", bound=msgspec.Struct)

_LIMIT_BYTES = 64 << 10  # no operation needs more
_CLIENT_LEFT = 499  # as nginx logs it; nobody is there to read it
_ENTRIES = 100  # of the audit log, where nobody says how many


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body; what it does not name is refused."""


class Load(_Strict):
    """`POST …/load`."""

    version: str | None = None  # None: what the policy says
    reload: bool = False  # also where it is loaded already
    hold: bool = False  # the version that answers now goes on answering


class Versioned(_Strict):
    """`POST …/unload`, `…/promote`: a version, or what goes without saying."""

    version: str | None = None


class Canary(_Strict):
    """`POST …/canary`."""

    version: str
    percent: Annotated[float, Meta(ge=0, le=100)]
    sticky: str | None = None


class Label(_Strict):
    """`PUT …/labels/LABEL`."""

    version: str


class Instances(_Strict):
    """`PUT …/instances`."""

    count: Annotated[int, Meta(ge=1, le=1024)]
    version: str | None = None


class Admin:
    """Starlette endpoints. Each operation answers with the model as it is afterwards."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = time.monotonic()

    async def status(self, request: Request) -> Response:
        """`GET /admin/v1/status`: the server and every model."""
        server = self._server
        folder = server.root / server.settings.models
        document = {
            "ready": await server.readiness.server(),
            "accepting": server.accepting,
            "uptime_s": round(time.monotonic() - self._began, 3),
            "repository": str(folder.resolve()),
            "is_package": (folder / MANIFEST).is_file(),
            "takes_packages": server.guard.enabled,
            "max_package_mb": server.settings.max_package_mb,
            "models": self._models(),
        }
        return JSONResponse(document)

    async def models(self, request: Request) -> Response:
        """`GET /admin/v1/models`."""
        return JSONResponse({"models": self._models()})

    async def model(self, request: Request) -> Response:
        """`GET /admin/v1/models/{model}`."""
        return JSONResponse(self._model(request.path_params["model"]))

    async def package(self, request: Request) -> Response:
        """`PUT /admin/v1/packages/{model}/{version}`: a tar of a package, to be loaded at once.

        A package may hold code, so this asks for a key even where nothing else does.
        """
        if not self._server.guard.enabled:
            raise Forbidden(
                "a server without API keys takes no packages over HTTP: they may hold code",
                hint="'mlserve keys add NAME --scope admin' makes a key",
            )
        name, version = request.path_params["model"], request.path_params["version"]
        settings = self._server.settings
        repository = self._server.root / settings.models
        if (repository / MANIFEST).is_file():
            raise Conflict("the server serves one package, and takes no second one")
        kept = False
        try:
            async with unpacked(
                request.receive,
                repository,
                limit_bytes=int(settings.max_package_mb * (1 << 20)),
            ) as folder:
                kept = await self._server.operations.deploy(
                    folder,
                    name,
                    version,
                    replace=request.query_params.get("replace") == "true",
                    hold=request.query_params.get("hold") == "true",
                    caller=caller(request),
                )
        except body.Disconnected:
            return Response(status_code=_CLIENT_LEFT)
        return self._done(name, kept)

    async def load(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/load`: answered once it takes traffic, or cannot."""
        name, asked = request.path_params["model"], await _read(request, Load)
        kept = await self._server.operations.load(
            name, asked.version, reload=asked.reload, hold=asked.hold, caller=caller(request)
        )
        return self._done(name, kept)

    async def reload(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/reload`: from disk again, beside the one that answers."""
        name, asked = request.path_params["model"], await _read(request, Versioned)
        kept = await self._server.operations.load(
            name, asked.version, reload=True, caller=caller(request)
        )
        return self._done(name, kept)

    async def unload(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/unload`: out of the traffic now, freed once drained."""
        name, asked = request.path_params["model"], await _read(request, Versioned)
        kept = await self._server.operations.unload(name, asked.version, caller=caller(request))
        return self._done(name, kept)

    async def instances(self, request: Request) -> Response:
        """`PUT /admin/v1/models/{model}/instances`."""
        name, asked = request.path_params["model"], await _read(request, Instances)
        kept = await self._server.operations.resize(
            name, asked.version, asked.count, caller=caller(request)
        )
        return self._done(name, kept)

    async def rescan(self, request: Request) -> Response:
        """`POST /admin/v1/rescan`: look at the repository now."""
        await self._server.operations.rescan(caller=caller(request))
        return JSONResponse({"models": self._models()})

    async def rule(self, request: Request) -> Response:
        """`GET`, `PUT`, `DELETE /admin/v1/models/{model}/rule`."""
        name = request.path_params["model"]
        if request.method in ("GET", "HEAD"):
            return JSONResponse({"rule": self._model(name)["rule"]})
        rule = None if request.method == "DELETE" else await _read(request, TrafficRule)
        kept = await self._server.operations.set_rule(name, rule, caller=caller(request))
        return self._done(name, kept)

    async def canary(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/canary`: a share of the requests to another version."""
        name, asked = request.path_params["model"], await _read(request, Canary)
        kept = await self._server.operations.canary(
            name, asked.version, asked.percent, sticky=asked.sticky, caller=caller(request)
        )
        return self._done(name, kept)

    async def promote(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/promote`: all requests to a version."""
        name, asked = request.path_params["model"], await _read(request, Versioned)
        kept = await self._server.operations.promote(name, asked.version, caller=caller(request))
        return self._done(name, kept)

    async def rollback(self, request: Request) -> Response:
        """`POST /admin/v1/models/{model}/rollback`: end the canary, or go back to before."""
        name = request.path_params["model"]
        kept = await self._server.operations.rollback(name, caller=caller(request))
        return self._done(name, kept)

    async def label(self, request: Request) -> Response:
        """`PUT`, `DELETE /admin/v1/models/{model}/labels/{label}`."""
        name, label = request.path_params["model"], request.path_params["label"]
        version = None if request.method == "DELETE" else (await _read(request, Label)).version
        kept = await self._server.operations.label(name, label, version, caller=caller(request))
        return self._done(name, kept)

    async def audit(self, request: Request) -> Response:
        """`GET /admin/v1/audit?limit=100`: the last entries, oldest first."""
        text = request.query_params.get("limit", str(_ENTRIES))
        limit = int(text) if text.isdecimal() and len(text) < 10 else 0
        if not 0 < limit <= 10_000:
            raise InvalidRequest(f"limit is '{text}', and it must be a number from 1 to 10000")
        return JSONResponse({"entries": await self._server.operations.journal.entries(limit)})

    def _done(self, name: str, kept: bool) -> Response:
        """The model as it is now; `kept`: whether it will be so after a restart as well."""
        versions = [entry for entry in self._models() if entry["name"] == name]
        rule = self._server.traffic.rule(name)
        shown = None if rule is None else msgspec.to_builtins(rule)
        return JSONResponse({"name": name, "rule": shown, "versions": versions, "kept": kept})

    def _model(self, name: str) -> dict[str, Any]:
        versions = [entry for entry in self._models() if entry["name"] == name]
        if not versions:
            self._server.registry.get(name)  # raises NotFound in the usual words
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        rule = self._server.traffic.rule(name)
        shown = None if rule is None else msgspec.to_builtins(rule)
        return {"name": name, "rule": shown, "versions": versions}

    def _models(self) -> list[dict[str, Any]]:
        return [self._version(status) for status in self._server.lifecycle.index()]

    def _version(self, status: ModelStatus) -> dict[str, Any]:
        """One version of a model: its state, its part of the traffic, its figures."""
        name, version = status.name, status.version
        rule = self._server.traffic.rule(name) or TrafficRule()
        found: dict[str, Any] = {
            "name": name,
            "version": version,
            "state": status.state,
            "reason": status.reason or None,
            "share": self._share(name, version, rule),
            "labels": sorted(label for label, each in rule.labels.items() if each == version),
            "shadow": rule.shadow_share if rule.shadow == version else 0.0,
        }
        memory = self._server.memory
        truth = None if memory is None else memory.tallies.version(name, version)
        if truth is not None:
            found["feedback"] = truth
        if version not in self._server.registry.versions(name):
            return found
        model = self._server.registry.get(name, version)
        metrics = model.metrics
        return found | {
            "ready": model.ready,
            "variant": model.manifest.variant,
            "digest": model.manifest.digest,
            "path": str(model.path),
            "instances": model.batcher.workers,
            "max_batch": model.batcher.max_batch,
            "requests": metrics.successes + metrics.failures,
            "failures": metrics.failures,
            "mean_ms": _mean_ms(metrics.success_s, metrics.successes),
            "rows": metrics.inferences,
            "queue_rows": metrics.waiting_rows,
            "last_ms": metrics.last_ms or None,
        }

    def _share(self, name: str, version: str, rule: TrafficRule) -> float:
        """The percentage of the requests that name no version which this one answers."""
        loaded = self._server.registry.versions(name)
        if version not in loaded:  # its part goes to the default
            return 0.0
        if version != self._server.operations.default(name):
            return rule.weights.get(version, 0.0)
        others = [rule.weights.get(each, 0.0) for each in loaded if each != version]
        return max(0.0, 100.0 - sum(others))


def _mean_ms(seconds: float, count: int) -> float | None:
    return round(1e3 * seconds / count, 3) if count else None


async def _read(request: Request, kind: type[T]) -> T:
    """The request's JSON body; no body stands for an empty object. Raises `InvalidRequest`."""
    headers = dict(request.scope["headers"])
    try:
        text = await body.read(headers, request.receive, limit_bytes=_LIMIT_BYTES)
    except body.Disconnected:  # nobody reads the answer
        raise InvalidRequest("the client left before its body ended") from None
    try:
        return msgspec.json.decode(text or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fields = ", ".join(kind.__struct_fields__)
        raise InvalidRequest(
            f"the body does not fit: {error}", hint=f"it is an object of {fields}"
        ) from error
