"""JSON Schema (2020-12) of what a package takes and answers, for OpenAPI documents and the page."""

from __future__ import annotations

from typing import Any, Literal

from ..manifest import Manifest
from ..tensors import TensorSpec
from .declaration import (
    ClassesOutput,
    ImageInput,
    TableInput,
    TextInput,
    TokensOutput,
    ValuesOutput,
)

Schema = dict[str, Any]
Kind = Literal["image", "table", "text", "tensors", "custom"]

_NUMBER = {"type": "number"}
_TYPES: dict[str, Schema] = {
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string"},
    "FP16": _NUMBER,
    "FP32": _NUMBER,
    "FP64": _NUMBER,
}


def kind_of(manifest: Manifest) -> Kind:
    """What a person sends to this model."""
    declared = manifest.processing
    if declared.python is not None and declared.input is None:
        return "custom"
    match declared.input:
        case ImageInput():
            return "image"
        case TableInput():
            return "table"
        case TextInput():
            return "text"
    return "tensors"


def row(manifest: Manifest) -> Schema:
    """The schema of one row in JSON."""
    match manifest.processing.input:
        case ImageInput() as image:
            return _object(
                {
                    "image": {
                        "type": "string",
                        "contentEncoding": "base64",
                        "description": f"An image file; it is resized to {image.width} × "
                        f"{image.height} ({image.resize}).",
                    }
                }
            )
        case TableInput() as table:
            properties: dict[str, Schema] = {}
            for column in table.columns:
                kind: str = column.type
                properties[column.name] = {"type": [kind, "null"] if column.nullable else kind}
                if column.default is not None:
                    properties[column.name]["default"] = column.default
            required = [column.name for column in table.columns if column.default is None]
            return _object(properties, required)
        case TextInput():
            return {"anyOf": [{"type": "string"}, _object({"text": {"type": "string"}})]}
    if manifest.processing.python is not None:
        return {"description": "What the package's own processing takes."}
    return _object({spec.name: tensor(spec, skip_batch=True) for spec in manifest.inputs})


def requests(manifest: Manifest) -> dict[str, Schema]:
    """Content type → schema of a whole request body."""
    one = row(manifest)
    several = {"type": "array", "items": one, "minItems": 1}
    content: dict[str, Schema] = {
        "application/json": {"anyOf": [one, several, _object({"rows": several})]}
    }
    match kind_of(manifest):
        case "image":
            binary: Schema = {"type": "string", "format": "binary"}
            content = {"image/png": binary, "image/jpeg": binary} | content
        case "table":
            content["text/csv"] = {"type": "string", "description": "A header line, then rows."}
        case "text":
            content["text/plain"] = {"type": "string"}
        case "custom":
            content["application/octet-stream"] = {"type": "string", "format": "binary"}
    return content


def answer(manifest: Manifest) -> Schema:
    """The schema of the answer to one row."""
    if manifest.processing.python is not None:
        return {"description": "What the package's own processing answers."}
    match manifest.processing.output:
        case ClassesOutput():
            label: Schema = {"type": ["string", "null"]}
            if manifest.labels:
                label["enum"] = [*manifest.labels, None]
            number = {"type": ["number", "null"]}
            return _object(
                {
                    "label": label,
                    "score": number,
                    "scores": {"type": "object", "additionalProperties": number},
                }
            )
        case ValuesOutput() as values:
            spec = next(spec for spec in manifest.outputs if spec.name == values.tensor)
            number = {"type": ["number", "null"]}
            if all(size == 1 for size in spec.shape[1:]):
                return _object({"value": number})
            return _object({"values": {"type": "array", "items": number}})
        case TokensOutput():
            token = _object(
                {
                    "text": {"type": "string"},
                    "start": {"type": "integer"},
                    "end": {"type": "integer"},
                    "label": {"type": "string"},
                    "score": {"type": ["number", "null"]},
                }
            )
            return _object({"tokens": {"type": "array", "items": token}})
    return _object({spec.name: tensor(spec, skip_batch=True) for spec in manifest.outputs})


def tensor(spec: TensorSpec, *, skip_batch: bool) -> Schema:
    """Nested arrays of a tensor's sizes; without the batch where it has one."""
    sizes = spec.shape[1:] if skip_batch and spec.has_batch else spec.shape
    schema: Schema = _TYPES.get(spec.datatype, {"type": "integer"})
    for size in reversed(sizes):
        schema = {"type": "array", "items": schema}
        if isinstance(size, int):
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }
