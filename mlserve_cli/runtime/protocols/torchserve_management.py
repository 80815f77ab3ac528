"""TorchServe's management API: list, describe, register, scale, set the default, unregister.

A model is registered by the name of a package in the repository: `url=NAME` or `url=NAME/VERSION`.
Archives are not fetched from elsewhere, and there is no handler to choose: a package says itself
how it is run. All work is done when the answer is sent; without `synchronous=true` the status is
202 all the same, as clients expect.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from .. import body, json_text
from ..errors import Conflict, InvalidRequest, NotFound, RequestError, release
from ..gate import caller
from ..monitoring.record import new_id
from ..processing import payload
from . import errors, torchserve_errors
from .defaults import default

if TYPE_CHECKING:
    from ..registry import LoadedModel
    from ..server import Server

View = Callable[[Request], Awaitable[Response]]

_PAGE = 100  # models listed at once, unless the request says otherwise
_BODY_BYTES = 64 << 10  # of a request to register a model, which holds a few names
_ID = 9000  # TorchServe numbers its workers from here
_STATM = Path("/proc/self/statm")


class Management:
    """Starlette endpoints; `view` gives one with TorchServe's errors around it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = datetime.now(UTC)
        self._registered: dict[tuple[str, str], datetime] = {}  # after the start, by us

    def view(self, name: str) -> View:
        """The endpoint of that name; its errors are worded as TorchServe does."""
        work: View = getattr(self, name)

        async def answer(request: Request) -> Response:
            try:
                response = await work(request)
            except RequestError as error:
                headers = {key.decode(): value.decode() for key, value in errors.headers(error)}
                response = _json(torchserve_errors.encode(error), error.status, headers)
                release(error)
            except Exception as error:
                response = _json(torchserve_errors.unexpected(error), 500)
                release(error)
            response.headers["x-request-id"] = new_id()
            return response

        return answer

    async def models(self, request: Request) -> Response:
        """`GET /models?limit=100&next_page_token=0`: the default version of each model."""
        limit = min(_number(request, "limit", _PAGE, low=0), _PAGE)
        start = _number(request, "next_page_token", 0, low=0)
        names = self._names()
        document: dict[str, Any] = {
            "models": [
                {"modelName": name, "modelUrl": self._url(default(self._server, name))}
                for name in names[start : start + limit]
            ]
        }
        if start + limit < len(names):
            document["nextPageToken"] = str(start + limit)
        return _json(json_text.encode(document))

    async def describe(self, request: Request) -> Response:
        """`GET /models/{model}[/{version}]`; the version `all` stands for every one."""
        name, version = _named(request)
        if version == "all":
            known = self._server.registry.versions(name)
            if not known:
                raise torchserve_errors.no_model(name, None, known)
            found = [self._loaded(name, each) for each in known]
        else:
            found = [self._loaded(name, version)]
        return _json(json_text.encode([self._described(model) for model in found]))

    async def register(self, request: Request) -> Response:
        """`POST /models?url=NAME[/VERSION]&initial_workers=…`, or the same in a JSON body."""
        wanted = await _wishes(request)
        name, version = _package(wanted)
        workers = _whole(wanted.get("initial_workers", 0), "initial_workers", low=0)
        known = self._server.registry.versions(name)
        if version is not None and version in known:
            raise _registered(name, version)
        try:
            await self._server.operations.load(name, version, caller=caller(request))
        except NotFound as error:
            raise torchserve_errors.ModelNotFound(
                f"Model not found at: {wanted['url']}", hint=error.hint
            ) from error
        now = self._server.registry.versions(name)
        new = [each for each in now if each not in known]
        if not new:
            raise _registered(name, now[-1])
        model = self._loaded(name, new[-1])
        self._registered[name, model.manifest.version] = datetime.now(UTC)
        if workers and workers != model.batcher.workers:
            await self._server.operations.resize(
                name, model.manifest.version, workers, caller=caller(request)
            )
            model = self._loaded(name, model.manifest.version)
        return _status(
            f'Model "{name}" Version: {model.manifest.version} registered with '
            f"{model.batcher.workers} initial workers"
        )

    async def scale(self, request: Request) -> Response:
        """`PUT /models/{model}[/{version}]?min_worker=1&max_worker=1&synchronous=false`."""
        name, version = _named(request)
        low = _number(request, "min_worker", 1, low=0)
        high = _number(request, "max_worker", low, low=0)
        if high < low:
            raise InvalidRequest("max_worker cannot be less than min_worker.")
        if high < 1:
            raise InvalidRequest(
                f"max_worker is {high}, and a model that is loaded has at least 1",
                hint="DELETE /models/MODEL unloads it",
            )
        model = self._loaded(name, version)
        version = model.manifest.version
        if not low <= model.batcher.workers <= high:
            await self._server.operations.resize(name, version, max(low, 1), caller=caller(request))
        if not _flag(request, "synchronous"):
            return _status("Processing worker updates...", 202)
        workers = self._loaded(name, version).batcher.workers
        return _status(f"Workers scaled to {workers} for model: {name}")

    async def set_default(self, request: Request) -> Response:
        """`PUT /models/{model}/{version}/set-default`."""
        name, version = _named(request)
        model = self._loaded(name, version)
        await self._server.operations.promote(name, model.manifest.version, caller=caller(request))
        return _status(f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, request: Request) -> Response:
        """`DELETE /models/{model}[/{version}]`; the default goes last."""
        name, version = _named(request)
        model = self._loaded(name, version)
        others = len(self._server.registry.versions(name)) > 1
        if others and model is default(self._server, name):
            raise torchserve_errors.DefaultVersion(
                f"Cannot remove default version for model {name}"
            )
        await self._server.operations.unload(name, model.manifest.version, caller=caller(request))
        self._registered.pop((name, model.manifest.version), None)
        return _status(f'Model "{name}" unregistered')

    def _names(self) -> list[str]:
        return sorted({model.manifest.name for model in self._server.registry.models()})

    def _loaded(self, name: str, version: str | None) -> LoadedModel:
        try:
            if version is None:
                return default(self._server, name)
            return self._server.registry.get(name, version)
        except NotFound as error:
            known = self._server.registry.versions(name)
            raise torchserve_errors.no_model(name, version, known) from error

    def _url(self, model: LoadedModel) -> str:
        return f"{model.manifest.name}/{model.manifest.version}"

    def _described(self, model: LoadedModel) -> dict[str, Any]:
        manifest, batcher = model.manifest, model.batcher
        registered = self._registered.get((manifest.name, manifest.version))
        began = (registered or self._began).isoformat(timespec="milliseconds")
        gpu = model.sizing.device == "cuda"
        workers = [
            {
                "id": str(_ID + number),
                "startTime": began.replace("+00:00", "Z"),
                "status": "READY" if model.ready else "UNLOADING",
                "memoryUsage": _memory_bytes(),
                "pid": os.getpid(),
                "gpu": gpu,
                "gpuUsage": "N/A",
            }
            for number in range(batcher.workers)
        ]
        return {
            "modelName": manifest.name,
            "modelVersion": manifest.version,
            "modelUrl": self._url(model),
            "runtime": manifest.engine,
            "minWorkers": batcher.workers,
            "maxWorkers": batcher.workers,
            "batchSize": batcher.max_batch,
            "maxBatchDelay": int(model.sizing.max_delay_ms),
            "responseTimeout": 0,  # there is none but the caller's own
            "startupTimeout": 0,
            "maxRetryTimeoutInSec": 0,
            "loadedAtStartup": registered is None,
            "workers": workers,
            "jobQueueStatus": {
                "remainingCapacity": self._server.settings.max_queue_rows - batcher.queued_rows,
                "pendingRequests": batcher.queued_rows,
            },
        }


async def _wishes(request: Request) -> dict[str, Any]:
    """The parameters of a request to register, from its query and its JSON body."""
    wanted: dict[str, Any] = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("application/json"):
        headers = dict(request.headers.raw)
        try:
            sent = await body.read(headers, request.receive, limit_bytes=_BODY_BYTES)
        except body.Disconnected:  # nobody reads the answer
            raise InvalidRequest("the client left before its body ended") from None
        found = payload.parse(sent)
        if not isinstance(found, dict):
            raise InvalidRequest(f"the body is {payload.show(found)}, and it must be an object")
        wanted |= found
    return wanted


def _package(wanted: dict[str, Any]) -> tuple[str, str | None]:
    """The name and version that `url` and `model_name` mean. Raises `InvalidRequest`."""
    url = wanted.get("url")
    if not isinstance(url, str) or not url:
        raise InvalidRequest("Parameter url is required.", hint="url=NAME or url=NAME/VERSION")
    name, _, version = url.removesuffix(".mar").strip("/").partition("/")
    if "://" in url or "/" in version:
        raise InvalidRequest(
            f"the url '{url}' is no package of the repository",
            hint="put the package into the repository; then url=NAME or url=NAME/VERSION",
        )
    called = wanted.get("model_name") or name
    if called != name:
        raise InvalidRequest(
            f"the package is called '{name}', and it cannot be registered as '{called}'",
            hint="leave model_name out",
        )
    return name, version or None


def _registered(name: str, version: str) -> Conflict:
    return Conflict(f"Model version {version} is already registered for model {name}")


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _number(request: Request, name: str, default: int, *, low: int) -> int:
    return _whole(request.query_params.get(name, default), name, low=low)


def _whole(value: Any, name: str, *, low: int) -> int:
    number = int(value) if type(value) is str and value.isdecimal() and len(value) < 10 else value
    if type(number) is not int or number < low:
        raise InvalidRequest(
            f"the parameter {name} is '{value}', and it must be a whole number of at least {low}"
        )
    return number


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _memory_bytes() -> int:
    """What the process has in memory: all workers share it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0


def _status(text: str, status: int = 200) -> Response:
    return _json(json_text.encode({"status": text}), status)


def _json(text: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, media_type="application/json")
