"""A request that works, made from a package's own golden rows, and the curl line that sends it.

Where the golden row can be turned back into what the processing takes (a picture, a table row, a
text), the example goes to `/predict`; else it is an Open Inference Protocol request.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import golden, json_text, processing
from .manifest import SERVE, Manifest
from .processing.processor import Payload, Processor
from .protocols import json_tensors
from .tensors import Tensors, datatype_of

INLINE_CHARACTERS = 240
"""A longer body makes a curl line that nobody reads; the server hands it out instead."""


class Served(Protocol):
    """A package, opened or loaded."""

    @property
    def manifest(self) -> Manifest:
        """What the package says of itself."""
        ...

    @property
    def path(self) -> Path:
        """Its folder."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """A body, its content type, and the path that it is sent to."""

    body: bytes
    content_type: str
    path: str

    @property
    def is_text(self) -> bool:
        """Whether the body can be shown and typed."""
        return self.content_type in ("application/json", "text/plain")


def of(model: Served, processor: Processor | None = None, *, version: str | None = None) -> Example:
    """The example request of a package.

    `processor` spares building one. With a `version` the request names it. Raises `PackageError`
    when the golden rows cannot be read.
    """
    manifest = model.manifest
    serve = model.path / SERVE
    inputs = golden.read(serve).inputs
    processor = processor or processing.build(manifest, serve)
    payload: Payload | None = processor.example(inputs)
    if payload is not None:
        path = f"/predict/{manifest.name}" + (f"/{version}" if version else "")
        return Example(payload.body, payload.content_type, path)
    path = f"/v2/models/{manifest.name}" + (f"/versions/{version}" if version else "") + "/infer"
    return Example(_oip(manifest, inputs), "application/json", path)


def curl_line(
    model: Served,
    base_url: str,
    *,
    processor: Processor | None = None,
    version: str | None = None,
    key: bool = False,
) -> str:
    """One line for a shell that sends the example to a server at `base_url` and prints the answer.

    A short body stands in the line; a picture or a long one is fetched from the server first.
    With `key` the API key is taken from the shell's variable KEY.
    """
    example = of(model, processor, version=version)
    base_url = base_url.rstrip("/")
    curl = 'curl -s -H "Authorization: Bearer $KEY"' if key else "curl -s"
    target = f"{curl} {shlex.quote(base_url + example.path)}"
    header = f"-H 'Content-Type: {example.content_type}'"
    if example.is_text and len(example.body) <= INLINE_CHARACTERS and b"\0" not in example.body:
        text = example.body.decode("utf-8", "replace")
        option = "--data-raw" if text.startswith("@") else "-d"
        return f"{target} {header} {option} {shlex.quote(text)}"
    name = f"/examples/{model.manifest.name}" + (f"/{version}" if version else "")
    source = f"{curl} {shlex.quote(base_url + name)}"
    return f"{source} | {target} --data-binary @- {header}"


def _oip(manifest: Manifest, inputs: Tensors) -> bytes:
    document = []
    finite = True
    for spec in manifest.inputs:
        array = inputs[spec.name][:1] if spec.has_batch else inputs[spec.name]
        data, all_finite = json_tensors.encode(array, spec.name)
        finite = finite and all_finite
        document.append(
            {
                "name": spec.name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
                "data": data,
            }
        )
    return json_text.encode({"inputs": document}, finite=finite)
