"""Open Inference Protocol, version 2, REST: the hot endpoint, inference."""

from __future__ import annotations

from typing import Any

from .. import body as bodies
from .. import json_text
from ..errors import InvalidRequest, RequestError
from ..manifest import Manifest
from ..tensors import Tensors, check_name, datatype_of
from . import binary_tensors, json_tensors, oip_messages
from .endpoint import BINARY, Call, Endpoint, Reply
from .oip_messages import InferRequest

_HEADER_LENGTH = b"inference-header-content-length"


class Infer(Endpoint):
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    protocol = "oip-rest"

    async def answer(self, call: Call) -> Reply:
        """Decode, infer, encode."""
        model = self.model(call)
        manifest = model.manifest
        body = await self.body(call)
        request, tensors = parse(manifest, body, call.headers.get(_HEADER_LENGTH))
        try:
            names = _wanted(manifest, request)
            deadline = call.deadline(oip_messages.timeout_us(request))
            with bodies.Watch(call.receive):
                outputs = await self.server.dataplane.infer(model, tensors, deadline=deadline)
            reply = encode(manifest, request, {name: outputs[name] for name in names})
        except RequestError as error:
            if request.id:
                error.message = f"[request id: {request.id}] {error.message}"
            raise
        accepted = call.headers.get(b"accept-encoding")
        if accepted is not None:
            reply.body, encoding = await bodies.compress(reply.body, accepted)
            if encoding is not None:
                reply.headers.append((b"content-encoding", encoding))
        return reply


def parse(manifest: Manifest, body: bytes, header: bytes | None) -> tuple[InferRequest, Tensors]:
    """A body → the request and its tensors; `header` is Inference-Header-Content-Length.

    Raises `InvalidRequest`. Whether the tensors fit the model is for the data plane to check.
    """
    text: bytes | memoryview = body
    position = len(body)
    if header is not None:
        position = binary_tensors.header_length(header, len(body))
        if position == 0 and body:
            return _parse_raw(manifest, body)
        text = memoryview(body)[:position]
    request = json_text.decode(text, oip_messages.decoder)
    oip_messages.check(request)
    tensors: Tensors = {}
    for item in request.inputs:
        # Before its data is decoded, so that ten thousand inputs too many cost nothing.
        check_name(manifest.inputs, item.name, model=manifest.name)
        json_tensors.check_header(item)
        size = binary_tensors.size_of(item)
        if size is None:
            tensors[item.name] = json_tensors.decode(item)
        elif item.data:
            raise InvalidRequest(f"input '{item.name}' has both 'data' and 'binary_data_size'")
        else:
            tensors[item.name] = binary_tensors.decode(item, body, position, size)
            position += size
    if position != len(body):
        raise InvalidRequest("unexpected additional input data")
    return request, tensors


def _parse_raw(manifest: Manifest, body: bytes) -> tuple[InferRequest, Tensors]:
    if len(manifest.inputs) != 1:
        raise InvalidRequest(
            f"a raw binary request needs a model with one input, and '{manifest.name}' has "
            f"{len(manifest.inputs)}"
        )
    spec = manifest.inputs[0]
    request = InferRequest(inputs=[], parameters={"binary_data_output": True})
    return request, {spec.name: binary_tensors.decode_raw(spec, body)}


def _wanted(manifest: Manifest, request: InferRequest) -> list[str]:
    """The names of the outputs to send, in the order that they were asked for."""
    names = [spec.name for spec in manifest.outputs]
    if not request.outputs:
        return names
    for output in request.outputs:
        if output.name not in names:
            raise InvalidRequest(
                f"unexpected inference output '{output.name}' for model '{manifest.name}'",
                hint="its outputs are " + ", ".join(names),
            )
    return [output.name for output in request.outputs]


def encode(manifest: Manifest, request: InferRequest, outputs: Tensors) -> Reply:
    """Outputs → the reply, each as JSON or binary as the request says."""
    everything = oip_messages.flag(request.parameters, "binary_data_output") or False
    binary = dict.fromkeys(outputs, everything)
    for output in request.outputs:
        wish = oip_messages.flag(output.parameters, "binary_data")
        if wish is not None:
            binary[output.name] = wish
    document: dict[str, Any] = {"id": request.id} if request.id else {}
    document["model_name"] = manifest.name
    document["model_version"] = manifest.version
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    finite = True
    for name, array in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if binary[name]:
            raw = binary_tensors.encode(array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"], all_finite = json_tensors.encode(array, name)
            finite = finite and all_finite
        described.append(entry)
    document["outputs"] = described
    text = json_text.encode(document, finite=finite)
    if not any(binary.values()):
        return Reply(text)
    length = (b"inference-header-content-length", b"%d" % len(text))
    return Reply(b"".join([text, *parts]), headers=[BINARY, length])
