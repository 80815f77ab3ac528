"""Errors as TorchServe words them: `{"code": 404, "type": "…Exception", "message": "…"}`."""

from __future__ import annotations

from .. import json_text
from ..errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InferenceFailed,
    NotFound,
    NotImplementedHere,
    Overloaded,
    RequestError,
    Stopping,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
)
from . import errors

_TYPES: dict[type[RequestError], str] = {
    Unauthorized: "InvalidKeyException",
    Forbidden: "ForbiddenException",
    NotFound: "ResourceNotFoundException",
    Conflict: "ConflictStatusException",
    TooLarge: "RequestEntityTooLargeException",
    UnsupportedMedia: "UnsupportedMediaTypeException",
    InferenceFailed: "InternalServerException",
    NotImplementedHere: "NotImplementedException",
    Overloaded: "ServiceUnavailableException",
    Stopping: "ServiceUnavailableException",
    DeadlineExceeded: "RequestTimeoutException",
}


class ModelNotFound(NotFound):
    """There is no model of that name."""


class VersionNotFound(NotFound):
    """There is a model of that name, and no such version of it."""


class DefaultVersion(Forbidden):
    """The default version cannot be taken away while there are others."""


_TYPES |= {
    ModelNotFound: "ModelNotFoundException",
    VersionNotFound: "ModelVersionNotFoundException",
    DefaultVersion: "InvalidModelVersionException",
}


_DOCUMENT = "please refer to API document."
_OF_ROUTES = {
    404: ("ResourceNotFoundException", f"Requested resource is not found, {_DOCUMENT}"),
    405: ("MethodNotAllowedException", f"Requested method is not allowed, {_DOCUMENT}"),
}


def encode(error: RequestError) -> bytes:
    """The JSON body of an error that a client is told about."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    kind = _TYPES.get(type(error), "BadRequestException")
    document = {"code": error.status, "type": kind, "message": errors.printable(message)}
    return json_text.encode(document)


def by_status(status: int, detail: str) -> bytes:
    """The JSON body where no route takes a path (404) or its method (405)."""
    kind, message = _OF_ROUTES.get(status, ("BadRequestException", detail))
    return json_text.encode({"code": status, "type": kind, "message": message})


def unexpected(error: Exception) -> bytes:
    """The JSON body for a bug of ours: an id, by which the log has all of it."""
    text = errors.logged(error)
    return json_text.encode({"code": 500, "type": "InternalServerException", "message": text})


def no_model(name: str, version: str | None, known: list[str]) -> NotFound:
    """What TorchServe says of a model or version that is not there; `known` are its versions."""
    if version is not None and known:
        return VersionNotFound(f"Model version: {version} does not exist for model: {name}")
    return ModelNotFound(f"Model not found: {name}")
