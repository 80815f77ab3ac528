"""Is it alive, is it ready, what are its figures, what does it serve. None of these is hot.

Bodies follow the Open Inference Protocol, with the keys that KServe's client reads as well;
`/livez`, `/readyz` and `/metrics` are for Kubernetes and Prometheus.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..compat import server_name
from ..manifest import Manifest
from ..monitoring.metrics import CONTENT_TYPE
from .defaults import default
from .oip_config import PLATFORMS

if TYPE_CHECKING:
    from ..server import Server

EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Of the protocol's extensions, those that are here; clients choose by this list."""

_VERSION = Path(__file__).parent.parent / "VERSION"
_NOT_READY = "Model version not ready"


class Health:
    """Starlette endpoints about the server and its models."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._version = _VERSION.read_text(encoding="utf-8").strip()

    async def alive(self, request: Request) -> Response:
        """`GET /livez`, `GET /v2/health/live`: the event loop turns, or this would not answer."""
        return JSONResponse({"live": True})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: 503 takes a server out of its load balancer."""
        ready = await self._server.readiness.server()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def ready(self, request: Request) -> Response:
        """`GET /v2/health/ready`."""
        if not await self._server.readiness.server():
            document = {"live": True, "ready": False, "error": "the server is not ready"}
            return JSONResponse(document, 400)
        return JSONResponse({"live": True, "ready": True})

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics[?name[]=NAME]`, in Prometheus' text format; TorchServe names some so."""
        text = self._server.metrics.render(request.query_params.getlist("name[]"))
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def server_metadata(self, request: Request) -> Response:
        """`GET /v2`."""
        return JSONResponse(
            {
                "name": server_name(self._server.settings),
                "version": self._version,
                "extensions": list(EXTENSIONS),
            }
        )

    async def model_metadata(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]`."""
        registry = self._server.registry
        name, version = _named(request)
        model = default(self._server, name) if version is None else registry.get(name, version)
        return JSONResponse(describe(model.manifest, registry.versions(name)))

    async def model_ready(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]/ready`; unknown models are not ready."""
        name, version = _named(request)
        if not await self._server.readiness.model(name, version):
            return JSONResponse({"name": name, "ready": False, "error": _NOT_READY}, 400)
        return JSONResponse({"name": name, "ready": True})


def describe(manifest: Manifest, versions: list[str]) -> dict[str, Any]:
    """A model's metadata as the protocol prints it; the batch is a size of -1."""
    return {
        "name": manifest.name,
        "versions": versions,
        "platform": PLATFORMS.get(manifest.engine, manifest.engine),
        "inputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape}
            for spec in manifest.inputs
        ],
        "outputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape}
            for spec in manifest.outputs
        ],
    }


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")
