"""Which path leads where. The hot routes stand first: the router looks at them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import json_text
from .admin import Admin
from .errors import RequestError
from .feedback.endpoint import Feedback
from .gate import Gate, is_torchserves
from .page import Pages
from .protocols import errors, tensorflow_rest, torchserve_errors
from .protocols import torchserve as torchserve_rest
from .protocols.health import Health
from .protocols.not_offered import views as not_offered
from .protocols.oip_models import OipModels
from .protocols.oip_rest import Infer
from .protocols.predict import Predict
from .protocols.tensorflow_rest import Models
from .protocols.torchserve import Explanations, Ping
from .protocols.torchserve_management import Management

if TYPE_CHECKING:
    from .server import Server

_JSON = "application/json"


def inference(server: Server) -> list[Route]:
    """Open Inference Protocol: inference, metadata, readiness, and what Triton adds to them."""
    infer, health, models = Infer(server), Health(server), OipModels(server)
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
        Route("/v2/models/stats", models.all_statistics),  # or it would be a model's name
        Route(model, health.model_metadata),
        Route(version, health.model_metadata),
        Route(f"{model}/stats", models.statistics),
        Route(f"{version}/stats", models.statistics),
        Route(f"{model}/config", models.config),
        Route(f"{version}/config", models.config),
        *(
            Route(f"/v2/repository{start}/{path}", view, methods=["POST"])
            for start in ("", "/{repository}")
            for path, view in (
                ("index", models.index),
                ("models/{model}/load", models.load),
                ("models/{model}/unload", models.unload),
            )
        ),
        *(Route(path, view, methods=["GET", "POST"]) for path, view in not_offered().items()),
    ]


def prediction(server: Server) -> list[Route]:
    """Rows in, answers out, by each package's processing; later, what would have been right."""
    predict = Predict(server)
    return [
        Route("/predict/{model}", predict, methods=["POST"]),
        Route("/predict/{model}/{version}", predict, methods=["POST"]),
        Route("/feedback/{model}", Feedback(server).post, methods=["POST"]),
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


def admin(server: Server) -> list[Route]:
    """What operators do; see `admin`."""
    views = Admin(server)
    model = "/admin/v1/models/{model}"
    return [
        Route("/admin/v1/status", views.status),
        Route("/admin/v1/models", views.models),
        Route(model, views.model),
        Route(f"{model}/load", views.load, methods=["POST"]),
        Route(f"{model}/reload", views.reload, methods=["POST"]),
        Route(f"{model}/unload", views.unload, methods=["POST"]),
        Route(f"{model}/instances", views.instances, methods=["PUT"]),
        Route(f"{model}/rule", views.rule, methods=["GET", "PUT", "DELETE"]),
        Route(f"{model}/canary", views.canary, methods=["POST"]),
        Route(f"{model}/promote", views.promote, methods=["POST"]),
        Route(f"{model}/rollback", views.rollback, methods=["POST"]),
        Route(f"{model}/labels/{{label}}", views.label, methods=["PUT", "DELETE"]),
        Route("/admin/v1/packages/{model}/{version}", views.package, methods=["PUT"]),
        Route("/admin/v1/rescan", views.rescan, methods=["POST"]),
        Route("/admin/v1/audit", views.audit),
    ]


def tensorflow(server: Server) -> list[Route]:
    """TensorFlow Serving's REST API and KServe's version 1; one pattern for all of its paths."""
    models, health = Models(server), Health(server)
    return [
        Route("/v1/{path:path}", tensorflow_rest.Predictions(server), methods=["POST"]),
        Route("/v1/{path:path}", models.get),
        Route("/monitoring/prometheus/metrics", health.metrics),
    ]


def torchserve(server: Server) -> list[Route]:
    """TorchServe's inference and management APIs."""
    predictions, explanations = torchserve_rest.Predictions(server), Explanations(server)
    views, pages, both = Management(server).view, Pages(server), ["POST", "PUT"]
    return [
        Route("/predictions/{model}", predictions, methods=both),
        Route("/predictions/{model}/{version}", predictions, methods=both),
        Route("/ping", Ping(server).ping),
        Route("/predictions", predictions, methods=both),
        Route("/invocations", predictions, methods=["POST"]),
        Route("/explanations/{model}", explanations, methods=both),
        Route("/explanations/{model}/{version}", explanations, methods=both),
        Route("/models", views("models")),
        Route("/models", views("register"), methods=["POST"]),
        Route("/models/{model}", views("describe")),
        Route("/models/{model}", views("scale"), methods=["PUT"]),
        Route("/models/{model}", views("unregister"), methods=["DELETE"]),
        Route("/models/{model}/{version}", views("describe")),
        Route("/models/{model}/{version}", views("scale"), methods=["PUT"]),
        Route("/models/{model}/{version}", views("unregister"), methods=["DELETE"]),
        Route("/models/{model}/{version}/set-default", views("set_default"), methods=["PUT"]),
        Route("/", pages.openapi, methods=["OPTIONS"]),
        Route("/api-description", pages.openapi),
    ]


def middleware(server: Server) -> list[Middleware]:
    """What stands in front of all routes: the guard, which asks for keys; see `gate`."""
    return [Middleware(Gate, server)]


async def _request_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    headers = {name.decode(): value.decode() for name, value in errors.headers(error)}
    return Response(errors.encode(error), error.status, headers, media_type=_JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if is_torchserves(request.url.path):
        body = torchserve_errors.by_status(error.status_code, error.detail)
    else:
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
