"""Which path leads where. The hot routes stand first: the router looks at them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import json_text
from .errors import RequestError
from .page import Pages
from .protocols import errors
from .protocols.health import Health
from .protocols.oip_rest import Infer
from .protocols.predict import Predict

if TYPE_CHECKING:
    from .server import Server

_JSON = "application/json"


def inference(server: Server) -> list[Route]:
    """Open Inference Protocol: inference, metadata, readiness."""
    infer, health = Infer(server), Health(server)
    model = "/v2/models/{model}"
    version = model + "/versions/{version}"
    return [
        Route(f"{model}/infer", infer, methods=["POST"]),
        Route(f"{version}/infer", infer, methods=["POST"]),
        Route("/v2", health.server_metadata),
        Route("/v2/health/live", health.alive),
        Route("/v2/health/ready", health.ready),
        Route(f"{model}/ready", health.model_ready),
        Route(f"{version}/ready", health.model_ready),
        Route(model, health.model_metadata),
        Route(version, health.model_metadata),
    ]


def prediction(server: Server) -> list[Route]:
    """Rows in, answers out, by each package's processing."""
    predict = Predict(server)
    return [
        Route("/predict/{model}", predict, methods=["POST"]),
        Route("/predict/{model}/{version}", predict, methods=["POST"]),
    ]


def monitoring(server: Server) -> list[Route]:
    """What Kubernetes and Prometheus ask for."""
    health = Health(server)
    return [
        Route("/livez", health.alive),
        Route("/readyz", health.readyz),
        Route("/metrics", health.metrics),
    ]


def pages(server: Server) -> list[Route]:
    """What a person opens: the page, the OpenAPI document, an example request for each model."""
    views = Pages(server)
    return [
        Route("/", views.page),
        Route("/openapi.json", views.openapi),
        Route("/examples/{model}", views.example),
        Route("/examples/{model}/{version}", views.example),
    ]


async def _request_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    headers = {name.decode(): value.decode() for name, value in errors.headers(error)}
    return Response(errors.encode(error), error.status, headers, media_type=_JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    body = json_text.encode({"error": error.detail})
    return Response(body, error.status_code, error.headers, media_type=_JSON)


async def _unexpected(request: Request, error: Exception) -> Response:
    return Response(errors.unexpected(error), 500, media_type=_JSON)


exception_handlers: dict[Any, Any] = {
    RequestError: _request_error,
    HTTPException: _http_error,
    Exception: _unexpected,
}
"""For the routes that are ordinary Starlette; the hot ones translate their errors themselves."""
