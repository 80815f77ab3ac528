"""Open Inference Protocol, version 2, REST: the hot endpoint, inference."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from .. import body as bodies
from .. import json_text
from ..errors import DeadlineExceeded, InvalidRequest, Overloaded, RequestError
from ..manifest import Manifest
from ..tensors import Tensors, check_name, datatype_of
from . import binary_tensors, json_tensors, oip_messages
from .binary_tensors import Body
from .classification import classify
from .endpoint import BINARY, Call, Endpoint, Reply
from .oip_messages import InferRequest

if TYPE_CHECKING:
    from ..registry import LoadedModel

_HEADER_LENGTH = b"inference-header-content-length"

_THREAD_BYTES = 256 << 10
"""Parsing more JSON than this holds the event loop up for some milliseconds."""


class Infer(Endpoint):
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    protocol = "oip-rest"
    takes_views = True

    async def answer(self, call: Call) -> Reply:
        """Decode, infer, encode."""
        model = None if self._sticks_to_a_field(call) else self.model(call)
        body = await self.buffer(call)
        position = text_length(body, call.headers.get(_HEADER_LENGTH))
        if position > _THREAD_BYTES:
            with self.server.dataplane.hold(len(body)):
                request = await asyncio.to_thread(read_message, body, position)
        else:
            request = read_message(body, position)
        try:
            if model is None:
                model = self.model(call, field=lambda name: oip_messages.value_of(request, name))
            reply = await self._infer(call, model, request, body, position)
        except RequestError as error:
            if isinstance(error, Overloaded):
                error.message = f"{oip_messages.FULL}: {error.message}"
            if request.id:
                error.message = f"[request id: {request.id}] {error.message}"
            raise
        accepted = call.headers.get(b"accept-encoding")
        if accepted is not None:
            reply.body, encoding = await bodies.compress(reply.body, accepted)
            if encoding is not None:
                reply.headers.append((b"content-encoding", encoding))
        return reply

    def refuse(self, error: RequestError) -> Reply:
        """As in Triton, a deadline that passed is a server that was not quick enough: a 503."""
        reply = super().refuse(error)
        if isinstance(error, DeadlineExceeded):
            reply.status = 503
            if error.retry_after_s is None:
                reply.headers.append((b"retry-after", b"1"))
        return reply

    async def _infer(
        self, call: Call, model: LoadedModel, request: InferRequest, body: Body, position: int
    ) -> Reply:
        manifest = model.manifest
        deadline = call.deadline(oip_messages.timeout_us(request))
        call.priority = oip_messages.priority(request)
        call.alias = request.id
        wanted = _wanted(manifest, request)
        if position > _THREAD_BYTES or (len(body) > _THREAD_BYTES and _holds_text(manifest)):
            with self.server.dataplane.hold(len(body)):
                tensors = await asyncio.to_thread(read_tensors, manifest, request, body, position)
        else:
            tensors = read_tensors(manifest, request, body, position)
        with call.watch:
            outputs = await self.server.dataplane.infer(
                model,
                tensors,
                deadline=deadline,
                priority=call.priority,
                timing=call.timing,
                asked=call,
            )
        kept: Tensors = {}
        large = False
        for name in wanted:
            array = kept[name] = outputs[name]
            large = large or array.size > json_tensors.MANY
        if large:
            return await asyncio.to_thread(encode, manifest, request, kept)
        return encode(manifest, request, kept)

    def _sticks_to_a_field(self, call: Call) -> bool:
        """Whether the request itself has to be read before it is known which version answers."""
        rule = self.server.traffic.rule(call.parameters["model"])
        return rule is not None and rule.sticky is not None and rule.sticky.startswith("field:")


def parse(manifest: Manifest, body: Body, header: bytes | None) -> tuple[InferRequest, Tensors]:
    """A body → the request and its tensors; `header` is Inference-Header-Content-Length.

    Raises `InvalidRequest`. Whether the tensors fit the model is for the data plane to check.
    """
    position = text_length(body, header)
    request = read_message(body, position)
    return request, read_tensors(manifest, request, body, position)


def text_length(body: Body, header: bytes | None) -> int:
    """How many bytes of the body are JSON; 0 with a body: none, it is a tensor alone."""
    return len(body) if header is None else binary_tensors.header_length(header, len(body))


def read_message(body: Body, position: int) -> InferRequest:
    """The JSON of a body, or what stands for it where the body is a tensor alone."""
    if position == 0 and body:
        return InferRequest(inputs=[], parameters={"binary_data_output": True})
    text: Body = body if position == len(body) else memoryview(body)[:position]
    if position <= _THREAD_BYTES:
        request = json_text.decode(text, oip_messages.decoder)
    else:
        try:
            request = oip_messages.large_decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            request = json_text.decode(text, oip_messages.decoder)  # NaN, or a sentence
    return request


def read_tensors(manifest: Manifest, request: InferRequest, body: Body, position: int) -> Tensors:
    """The tensors of a request; binary ones stand in the body from `position` on."""
    if position == 0:
        return _read_raw(manifest, body)
    oip_messages.check(request)
    if len(request.inputs) > len(manifest.inputs):
        # Before any data is decoded, so that ten thousand inputs too many cost nothing.
        raise InvalidRequest(
            f"expected {len(manifest.inputs)} inputs but got {len(request.inputs)} inputs "
            f"for model '{manifest.name}'",
            hint="its inputs are " + ", ".join(repr(spec.name) for spec in manifest.inputs),
        )
    tensors: Tensors = {}
    for item in request.inputs:
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
    return tensors


def _read_raw(manifest: Manifest, body: Body) -> Tensors:
    if len(manifest.inputs) != 1:
        raise InvalidRequest(
            f"a raw binary request needs a model with one input, and '{manifest.name}' has "
            f"{len(manifest.inputs)}"
        )
    spec = manifest.inputs[0]
    return {spec.name: binary_tensors.decode_raw(spec, body)}


def _holds_text(manifest: Manifest) -> bool:
    """Whether binary inputs may be text, which is taken apart a string at a time."""
    return any(spec.datatype == "BYTES" for spec in manifest.inputs)


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
        if oip_messages.classes(output):
            _check_classes(manifest, output.name)
    return [output.name for output in request.outputs]


def _check_classes(manifest: Manifest, name: str) -> None:
    spec = next(spec for spec in manifest.outputs if spec.name == name)
    if spec.datatype == "BYTES":
        raise InvalidRequest(
            f"output '{name}' of model '{manifest.name}' is text (BYTES), "
            "and classes can be given for numbers only",
            hint="leave 'classification' out and read the tensor",
        )


def encode(manifest: Manifest, request: InferRequest, outputs: Tensors) -> Reply:
    """Outputs → the reply, each as JSON or binary as the request says."""
    everything = oip_messages.flag(request.parameters, "binary_data_output") or False
    binary = dict.fromkeys(outputs, True) if everything else {}
    for output in request.outputs:
        wish = oip_messages.flag(output.parameters, "binary_data")
        if wish is not None:
            binary[output.name] = wish
        count = oip_messages.classes(output)
        if count:
            outputs[output.name] = classify(outputs[output.name], count, manifest.labels)
    document: dict[str, Any] = {"id": request.id} if request.id else {}
    document["model_name"] = manifest.name
    document["model_version"] = manifest.version
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    long: dict[str, list[bytes | memoryview]] = {}
    finite = True
    for name, array in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if binary and binary.get(name):
            raw = binary_tensors.encode(array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        elif array.size > json_tensors.MANY:
            long[name] = json_tensors.pieces(array, name)
        else:
            entry["data"], all_finite = json_tensors.encode(array, name)
            finite = finite and all_finite
        described.append(entry)
    if long:
        text = _spliced(document, described, long)
    else:
        document["outputs"] = described
        text = json_text.encode(document, finite=finite)
    if not binary or True not in binary.values():
        return Reply(text)
    length = (b"inference-header-content-length", b"%d" % len(text))
    return Reply(b"".join([text, *parts]), headers=[BINARY, length])


def _spliced(
    document: dict[str, Any],
    described: list[dict[str, Any]],
    long: dict[str, list[bytes | memoryview]],
) -> bytes:
    """The JSON of a reply whose long lists are text already: megabytes are copied only once."""
    text: list[bytes | memoryview] = [json_text.encode(document)[:-1], b',"outputs":[']
    for entry in described:
        data = long.get(entry["name"])
        if data is None:
            text.append(json_text.encode(entry, finite=False))
        else:
            text += (json_text.encode(entry)[:-1], b',"data":', *data, b"}")
        text.append(b",")
    text[-1] = b"]}"
    return b"".join(text)
