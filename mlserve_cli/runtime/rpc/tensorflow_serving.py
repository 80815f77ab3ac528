"""`tensorflow.serving.PredictionService` and `ModelService`, on messages of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.empty_pb2 import Empty

from ..errors import InvalidRequest, NotFound, NotImplementedHere
from ..protocols import tensorflow_json, tensorflow_rest, tensorflow_status
from ..protocols.defaults import default
from ..tensors import Tensors, check_name
from . import tensor_proto
from .calls import Call, Calls
from .schema import message

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..registry import LoadedModel
    from ..server import Server

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"

_FIELD = "signature_def"
_DEFAULTS = ("", tensorflow_json.DEFAULT_SIGNATURE)
_NUMBERED = 2**63  # versions are numbers there; ours can be any text

_Predict = message("tensorflow.serving.PredictRequest")
_Metadata = message("tensorflow.serving.GetModelMetadataRequest")
_Status = message("tensorflow.serving.GetModelStatusRequest")
_Unread = Empty  # the request of what is not offered: whatever it holds is unknown to this one


class TensorflowServing:
    """Answers the methods of both services."""

    def __init__(self, server: Server, *, limit_bytes: int) -> None:
        self._server = server
        self._calls = Calls(server, "tensorflow-grpc")
        self._limit_bytes = limit_bytes

    def prediction_handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The methods of `PredictionService` by name."""
        found = {
            "Predict": self._calls.unary(
                f"{PREDICTION}/Predict", _Predict, self._predict, scope="infer", counted=True
            ),
            "GetModelMetadata": self._calls.unary(
                f"{PREDICTION}/GetModelMetadata", _Metadata, self._metadata, scope="infer"
            ),
        }
        for name in ("Classify", "Regress", "MultiInference"):
            found[name] = self._calls.unary(
                f"{PREDICTION}/{name}", _Unread, _no_examples, scope="infer"
            )
        return found

    def model_handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The methods of `ModelService` by name."""
        return {
            "GetModelStatus": self._calls.unary(
                f"{MODEL}/GetModelStatus", _Status, self._status, scope="infer"
            ),
            "HandleReloadConfigRequest": self._calls.unary(
                f"{MODEL}/HandleReloadConfigRequest", _Unread, _no_reloading, scope="infer"
            ),
        }

    async def _predict(self, sent: Any, call: Call) -> Any:
        spec = sent.model_spec
        model = self._route(call, spec)
        manifest = model.manifest
        if spec.signature_name not in _DEFAULTS:
            raise tensorflow_json.no_signature(
                spec.signature_name, [tensorflow_json.DEFAULT_SIGNATURE]
            )
        tensors: Tensors = {}
        for name in sent.inputs:
            check_name(manifest.inputs, name, model=manifest.name)
            tensors[name] = tensor_proto.decode(
                name, sent.inputs[name], limit_bytes=self._limit_bytes
            )
        names = _wanted(manifest, sent.output_filter)
        call.let_go()
        outputs = await self._server.dataplane.infer(
            model,
            tensors,
            deadline=call.deadline(),
            priority=call.priority,
            timing=call.timing,
            asked=call,
        )
        reply = message("tensorflow.serving.PredictResponse")()
        _describe(reply.model_spec, manifest)
        reply.model_spec.signature_name = tensorflow_json.DEFAULT_SIGNATURE
        for name in names:
            tensor_proto.encode(reply.outputs[name], outputs[name])
        return reply

    async def _metadata(self, sent: Any, call: Call) -> Any:
        manifest = self._known(sent.model_spec).manifest
        if not sent.metadata_field:
            raise InvalidRequest(
                "GetModelMetadataRequest must specify at least one metadata_field",
                hint=f"it can be '{_FIELD}'",
            )
        for name in sent.metadata_field:
            if name != _FIELD:
                raise InvalidRequest(
                    f"Metadata field {name} is not supported", hint=f"it can be '{_FIELD}'"
                )
        signatures = message("tensorflow.serving.SignatureDefMap")()
        signature = signatures.signature_def[tensorflow_json.DEFAULT_SIGNATURE]
        for tensor in manifest.inputs:
            tensor_proto.describe(signature.inputs[tensor.name], tensor)
        for tensor in manifest.outputs:
            tensor_proto.describe(signature.outputs[tensor.name], tensor)
        signature.method_name = "tensorflow/serving/predict"
        reply = message("tensorflow.serving.GetModelMetadataResponse")()
        _describe(reply.model_spec, manifest)
        reply.metadata[_FIELD].Pack(signatures)
        return reply

    async def _status(self, sent: Any, call: Call) -> Any:
        name = sent.model_spec.name
        version = _version(sent.model_spec)
        if sent.model_spec.version_label:
            version = self._known(sent.model_spec).manifest.version
        known = [item for item in self._server.lifecycle.index() if item.name == name]
        asked = [item for item in known if version is None or item.version == version]
        if not asked:
            which = "any versions" if version is None or not known else f"version {version}"
            raise NotFound(f"Could not find {which} of model {name}")
        reply = message("tensorflow.serving.GetModelStatusResponse")()
        for item in asked:
            failed = item.state == "UNAVAILABLE" and bool(item.reason)
            entry = reply.model_version_status.add(
                version=_number(item.version), state=tensorflow_status.STATES[item.state]
            )
            entry.status.error_code = grpc.StatusCode.UNKNOWN.value[0] if failed else 0
            entry.status.error_message = item.reason or "" if failed else ""
        return reply

    def _route(self, call: Call, spec: Any) -> LoadedModel:
        """The model that answers. Raises as TensorFlow Serving words it."""
        try:
            return self._calls.route(
                call, spec.name, _version(spec), label=spec.version_label or None
            )
        except NotFound as error:
            raise tensorflow_rest.unknown(_named(spec), error) from error

    def _known(self, spec: Any) -> LoadedModel:
        """The model of a request that only asks, and so takes no part in sharing its traffic."""
        version = _version(spec)
        try:
            if spec.version_label:
                return self._server.traffic.route(spec.name, label=spec.version_label)
            if version is not None:
                return self._server.registry.get(spec.name, version)
            return default(self._server, spec.name)
        except NotFound as error:
            raise tensorflow_rest.unknown(_named(spec), error) from error


async def _no_examples(sent: Any, call: Call) -> Any:
    raise NotImplementedHere(
        f"{call.operation.rpartition('/')[2]} is not served over gRPC",
        hint="call Predict; classify and regress are served over REST",
    )


async def _no_reloading(sent: Any, call: Call) -> Any:
    raise NotImplementedHere(
        "which models are served cannot be set over TensorFlow Serving's API",
        hint="'mlserve deploy' and the admin API load and unload models; labels are set there too",
    )


def _version(spec: Any) -> str | None:
    return str(spec.version.value) if spec.HasField("version") else None


def _number(version: str) -> int:
    """A version as a number; -1 where it is none that fits."""
    number = int(version) if version.isdecimal() else -1
    return number if number < _NUMBERED else -1


def _named(spec: Any) -> dict[str, Any]:
    return {"model": spec.name, "version": _version(spec), "label": spec.version_label or None}


def _describe(spec: Any, manifest: Manifest) -> None:
    spec.name = manifest.name
    spec.version.value = _number(manifest.version)


def _wanted(manifest: Manifest, wanted: Any) -> list[str]:
    """The names of the outputs to send."""
    names = [spec.name for spec in manifest.outputs]
    for name in wanted:
        if name not in names:
            raise InvalidRequest(
                f"output tensor alias not found in signature: {name}",
                hint="its outputs are " + ", ".join(names),
            )
    return list(wanted) or names
