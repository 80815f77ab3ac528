"""The OpenAPI 3.1 document, made from the manifests of the models that are served."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .example import Example
from .manifest import Manifest
from .processing import schema
from .tensors import DATATYPES

Document = dict[str, Any]

_EXAMPLE_BYTES = 16 << 10  # a longer example would make up most of the document

_ERROR: Document = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "hint": {"type": "string"}},
    "required": ["error"],
}
_ERRORS: dict[str, str] = {
    "400": "The request does not fit the model; the text says where.",
    "404": "There is no such model or version.",
    "413": "The body is over the limit.",
    "503": "The queue is full or the server is stopping; Retry-After says when to come back.",
    "504": "The caller's deadline passed.",
}
_TENSOR: Document = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": list(DATATYPES)},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
    "required": ["name", "shape", "datatype"],
}
_TIMEOUT: Document = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the caller waits; work that would come too late is not begun.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def document(
    models: Iterable[tuple[Manifest, Example | None]], *, version: str, feedback: bool = False
) -> Document:
    """The document for models with their examples.

    version: of the runtime. feedback: whether truth about answers is taken.
    """
    paths: Document = {}
    for manifest, example in models:
        paths |= _prediction(manifest, example) | _inference(manifest, example)
        if feedback:
            paths |= _feedback(manifest)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlserve",
            "version": version,
            "description": "Predictions by each model's own processing, and tensors by the Open "
            "Inference Protocol, version 2.",
        },
        "paths": paths | _common(),
        "components": {"schemas": {"Error": _ERROR, "Tensor": _TENSOR}},
    }


def _prediction(manifest: Manifest, example: Example | None) -> Document:
    content: Document = {
        media: {"schema": body} for media, body in schema.requests(manifest).items()
    }
    path = f"/predict/{manifest.name}"
    if example is not None and example.path == path and len(example.body) <= _EXAMPLE_BYTES:
        shown = _shown(example)
        if shown is not None and example.content_type in content:
            content[example.content_type]["example"] = shown
    answer = {
        "type": "object",
        "properties": {
            "model": {"const": manifest.name},
            "version": {"type": "string"},
            "predictions": {"type": "array", "items": schema.answer(manifest)},
        },
        "required": ["model", "version", "predictions"],
    }
    operation = {
        "tags": [manifest.name],
        "summary": f"Predict with {manifest.name}",
        "description": manifest.description,
        "operationId": f"predict_{manifest.name}",
        "parameters": [_TIMEOUT],
        "requestBody": {"required": True, "content": content},
        "responses": _responses(answer, also={"415": "The content type is not served."}),
    }
    return {path: {"post": operation}}


def _inference(manifest: Manifest, example: Example | None) -> Document:
    tensor = {"$ref": "#/components/schemas/Tensor"}
    tensors = {"type": "array", "items": tensor}
    request: Document = {
        "schema": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": tensors,
                "outputs": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["inputs"],
        }
    }
    path = f"/v2/models/{manifest.name}/infer"
    if example is not None and example.path == path and len(example.body) <= _EXAMPLE_BYTES:
        request["example"] = _shown(example)
    answer = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "model_name": {"const": manifest.name},
            "model_version": {"type": "string"},
            "outputs": tensors,
        },
        "required": ["model_name", "outputs"],
    }
    operation = {
        "tags": [manifest.name],
        "summary": f"Infer with {manifest.name} (Open Inference Protocol)",
        "operationId": f"infer_{manifest.name}",
        "parameters": [_TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": _responses(answer),
    }
    metadata = {
        "tags": [manifest.name],
        "summary": f"The signature of {manifest.name}",
        "operationId": f"metadata_{manifest.name}",
        "responses": _responses({"type": "object"}, errors=("404",)),
    }
    return {path: {"post": operation}, f"/v2/models/{manifest.name}": {"get": metadata}}


def _feedback(manifest: Manifest) -> Document:
    item: Document = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "X-Request-Id of the answer, or its OIP id."},
            "row": {"type": "integer", "minimum": 0, "default": 0},
            "truth": {
                "description": "A label, a class's number, a value, or a list of values.",
                "type": ["string", "number", "boolean", "array"],
                "items": {"type": "number"},
            },
        },
        "required": ["id", "truth"],
        "additionalProperties": False,
    }
    counts = ("received", "joined", "corrected", "duplicate", "unknown")
    answer = {
        "type": "object",
        "properties": {
            "model": {"const": manifest.name},
            **{name: {"type": "integer", "minimum": 0} for name in counts},
            "reasons": {
                "description": "Why truths were joined to nothing.",
                "type": "object",
                "additionalProperties": {"type": "integer"},
            },
            "first_unknown": {"type": "object"},
            "kept": {"type": "boolean", "description": "Whether feedback.jsonl has what joined."},
        },
        "required": ["model", *counts, "reasons"],
    }
    several = {"oneOf": [item, {"type": "array", "items": item}]}
    content = {"application/json": {"schema": several}, "application/x-ndjson": {"schema": item}}
    operation = {
        "tags": [manifest.name],
        "summary": f"Tell what would have been right, of answers by {manifest.name}",
        "operationId": f"feedback_{manifest.name}",
        "requestBody": {"required": True, "content": content},
        "responses": _responses(
            answer,
            errors=("400", "404", "413"),
            also={"409": "The server remembers no predictions, or none of this model."},
        ),
    }
    return {f"/feedback/{manifest.name}": {"post": operation}}


def _common() -> Document:
    def get(summary: str, *, media: str = "application/json", **others: str) -> Document:
        responses: Document = {"200": {"description": "Yes.", "content": {media: {}}}}
        responses |= {status[1:]: {"description": text} for status, text in others.items()}
        return {"get": {"tags": ["server"], "summary": summary, "responses": responses}}

    return {
        "/v2": get("Name, version and protocol extensions of the server"),
        "/v2/health/live": get("Is the process alive?"),
        "/v2/health/ready": get("Would a prediction succeed?", _400="No."),
        "/livez": get("Is the process alive? (Kubernetes)"),
        "/readyz": get("Would a prediction succeed? (Kubernetes)", _503="No, or stopping."),
        "/metrics": get("Figures for Prometheus", media="text/plain"),
    }


def _responses(
    answer: Document,
    *,
    errors: Iterable[str] = tuple(_ERRORS),
    also: dict[str, str] | None = None,
) -> Document:
    texts = {status: _ERRORS[status] for status in errors} | (also or {})
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answered = {"description": "The answer.", "content": {"application/json": {"schema": answer}}}
    return {"200": answered} | {
        status: {"description": text, "content": error} for status, text in sorted(texts.items())
    }


def _shown(example: Example) -> Any:
    """The example as a value of the document; None for a file, or for NaN, which JSON lacks."""
    if example.content_type == "text/plain":
        return example.body.decode("utf-8", "replace")
    if example.content_type != "application/json":
        return None
    try:
        return json.loads(example.body, parse_constant=_refuse)
    except ValueError:
        return None


def _refuse(token: str) -> None:
    raise ValueError(token)
