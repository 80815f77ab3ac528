"""The Open Inference Protocol over gRPC: what a server says of itself, and messages for loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlserve_cli.bench.live.place import Place, unreachable
from mlserve_cli.bench.live.served import Served, Signature, spec
from mlserve_cli.errors import MlserveError, needs_extra
from mlserve_cli.runtime.protocols import binary_tensors
from mlserve_cli.runtime.protocols.oip_messages import InferInput
from mlserve_cli.runtime.tensors import Tensors, datatype_of

INFER = "/inference.GRPCInferenceService/ModelInfer"


def discover(place: Place, model: str | None) -> Served:
    """The model and its signature. Raises `MlserveError`, as over HTTP."""
    with needs_extra("grpc", "measure a server over gRPC"):
        import grpc  # noqa: F401
    with _channel(place) as call:
        names = _names(call, place)
        if model is None:
            if len(names) != 1:
                what = f"serves {len(names)} models" if names else "does not say what it serves"
                raise MlserveError(
                    f"the server at {place.url} {what}.",
                    hint="--model" + (" with one of " + ", ".join(names) if names else " NAME"),
                )
            model = names[0]
        elif names and model not in names:
            raise MlserveError(
                f"the server at {place.url} does not serve '{model}'.",
                hint="it serves " + ", ".join(names),
            )
        about = call("ModelMetadata", name=model)
        inputs, outputs = (
            tuple(spec(entry.name, entry.datatype, entry.shape) for entry in side)
            for side in (about.inputs, about.outputs)
        )
    return Served(
        protocol="oip-grpc", model=model, signature=Signature(inputs=inputs, outputs=outputs)
    )


def message(served: Served, tensors: Tensors) -> bytes:
    """A serialized request whose tensors are bytes."""
    from mlserve_cli.runtime.rpc.schema import message as message_class

    request = message_class("inference.ModelInferRequest")(
        model_name=served.model, model_version=served.version or ""
    )
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(binary_tensors.encode(array))
    text: bytes = request.SerializeToString()
    return text


def outputs(body: bytes) -> Tensors:
    """The tensors of a serialized answer."""
    from mlserve_cli.runtime.rpc import contents
    from mlserve_cli.runtime.rpc.schema import message as message_class

    answer = message_class("inference.ModelInferResponse").FromString(body)
    found: Tensors = {}
    for number, entry in enumerate(answer.outputs):
        item = InferInput(entry.name, list(entry.shape), entry.datatype)
        if answer.raw_output_contents:
            raw = answer.raw_output_contents[number]
            found[entry.name] = binary_tensors.decode(item, raw, 0, len(raw))
        else:
            found[entry.name] = contents.decode(item, entry.contents)
    return found


def ask(place: Place, body: bytes) -> bytes:
    """One request. Raises `MlserveError` with the server's words where it is refused."""
    with _channel(place) as call:
        answer: bytes = call.raw(INFER, body)
        return answer


class _Call:
    def __init__(self, place: Place, channel: Any) -> None:
        self._place, self._channel = place, channel

    def __call__(self, method: str, **fields: Any) -> Any:
        from mlserve_cli.runtime.rpc.schema import message as message_class

        request = message_class(f"inference.{method}Request")(**fields)
        body = self.raw(f"/inference.GRPCInferenceService/{method}", request.SerializeToString())
        return message_class(f"inference.{method}Response").FromString(body)

    def raw(self, path: str, body: bytes) -> Any:
        import grpc

        try:
            return self._channel.unary_unary(path)(
                body, timeout=self._place.patience_s, metadata=metadata(self._place) or None
            )
        except grpc.RpcError as error:
            code, words = error.code(), (error.details() or "").rstrip(".")
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                why = "nothing that speaks gRPC listens there" if "onnect" in words else words
                raise unreachable(self._place, why) from error
            if code is grpc.StatusCode.UNAUTHENTICATED:
                raise MlserveError(
                    f"the server at {self._place.url} asks for an API key.",
                    hint="--key, or MLSERVE_KEY",
                ) from error
            raise Refused(code.name, words) from error


class Refused(MlserveError):
    """The server answered a call with an error. `code` is gRPC's name for it."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(f"the server answers {code}: {words}.")
        self.code = code


def metadata(place: Place) -> list[tuple[str, str]]:
    """Of each call."""
    if place.key:
        return [("authorization", f"Bearer {place.key}")]
    return [("authorization", f"Basic {place.login}")] if place.login else []


@contextmanager
def _channel(place: Place) -> Iterator[_Call]:
    import grpc

    address = f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if place.tls:
        trusted = Path(place.ca).read_bytes() if place.ca else None
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted), options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        yield _Call(place, channel)


def _names(call: _Call, place: Place) -> list[str]:
    try:
        index = call("RepositoryIndex", ready=True)
    except Refused:
        return []  # an extension that not every server has
    return sorted({entry.name for entry in index.models})
