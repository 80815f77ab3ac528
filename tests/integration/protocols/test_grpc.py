"""gRPC beside HTTP on one server: the same bits, standard health and reflection, TensorFlow's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from mlserve_cli.package.package import Package

grpc = pytest.importorskip("grpc")
service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
message = pytest.importorskip("mlserve_cli.runtime.rpc.schema").message

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture
def channel(served: Any) -> Iterator[Any]:
    with grpc.insecure_channel(served.grpc) as made:
        yield made


@pytest.fixture
def call(channel: Any) -> Callable[..., Any]:
    """A stub of one method, as a generator would write it."""

    def stub(path: str, sent: Any, answer: Any) -> Any:
        method = channel.unary_unary(
            path,
            request_serializer=type(sent).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return method(sent, timeout=30)

    return stub


def rows() -> np.ndarray[Any, Any]:
    bits = np.random.default_rng(17).integers(0, 2**32, (40, 3), dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(bits) & (np.abs(bits) < 1e38), bits, np.float32(1 / 3))


@pytest.fixture
def expected(served: Any) -> Any:
    engine = Package.open(served.folder / "dbl" / "2").engine()
    yield engine.run({"x": rows()})["y"]
    engine.close()


def request(array: Any, *, raw: bool) -> Any:
    sent = service_pb2.ModelInferRequest(model_name="dbl", id="one")
    item = sent.inputs.add(name="x", datatype="FP32", shape=array.shape)
    if raw:
        sent.raw_input_contents.append(array.tobytes())
    else:
        item.contents.fp32_contents.extend(array.ravel().tolist())
    return sent


@pytest.mark.parametrize("raw", [True, False])
def test_the_engines_bits_come_as_they_were_asked(call: Any, expected: Any, raw: bool) -> None:
    reply = call(INFER, request(rows(), raw=raw), service_pb2.ModelInferResponse)
    assert (reply.model_version, reply.id, reply.outputs[0].name) == ("2", "one", "y")
    assert list(reply.outputs[0].shape) == [40, 3]
    if raw:
        assert reply.raw_output_contents[0] == expected.tobytes()
    else:
        found = np.array(reply.outputs[0].contents.fp32_contents, dtype=np.float32)
        assert found.tobytes() == expected.tobytes()
        assert not reply.raw_output_contents


@pytest.mark.parametrize("raw", [True, False])
def test_a_stream_gives_the_engines_bits(channel: Any, expected: Any, raw: bool) -> None:
    stream = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )
    asked = [request(row[None], raw=raw) for row in rows()]
    found = b""
    for reply in stream(iter(asked), timeout=30):
        answer = reply.infer_response
        if raw:
            found += answer.raw_output_contents[0]
        else:
            values = answer.outputs[0].contents.fp32_contents
            found += np.array(values, dtype=np.float32).tobytes()
    assert found == expected.tobytes()


def test_every_datatype_is_the_same_as_over_rest(served: Any, call: Any, every: Any) -> None:
    sent = service_pb2.ModelInferRequest(model_name="every")
    for name, array in every.items():
        sent.inputs.add(name=name, datatype=name.upper(), shape=array.shape)
        if name == "bytes":
            parts = [len(each).to_bytes(4, "little") + each for each in array]
            sent.raw_input_contents.append(b"".join(parts))
        else:
            sent.raw_input_contents.append(array.tobytes())
    reply = call(INFER, sent, service_pb2.ModelInferResponse)
    inputs = [
        {
            "name": item.name,
            "datatype": item.datatype,
            "shape": list(item.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        for item, raw in zip(sent.inputs, sent.raw_input_contents, strict=True)
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    rest = httpx2.post(
        f"{served.url}/v2/models/every/infer",
        content=text + b"".join(sent.raw_input_contents),
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    start = int(rest.headers["inference-header-content-length"])
    assert b"".join(reply.raw_output_contents) == rest.content[start:]
    assert [item.datatype for item in reply.outputs] == [name.upper() for name in every]


def test_both_kinds_of_contents_at_once_are_refused(call: Any) -> None:
    sent = request(rows(), raw=False)
    sent.raw_input_contents.append(rows().tobytes())
    with pytest.raises(grpc.RpcError, match="contents beside raw_input_contents"):
        call(INFER, sent, service_pb2.ModelInferResponse)


def test_garbage_is_the_clients_error(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(b"\xff\xff garbage", timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "are no inference.ModelInferRequest" in caught.value.details()


def test_a_message_that_unpacks_to_too_much_is_refused(channel: Any) -> None:
    sent = request(rows(), raw=True)
    sent.raw_input_contents[0] = bytes(16 << 20)  # 16 KB on the wire, where 2 MiB are allowed
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(
            sent.SerializeToString(), timeout=30, compression=grpc.Compression.Gzip
        )
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def predict(array: Any, *, typed: bool = False, **spec: Any) -> Any:
    sent = message("tensorflow.serving.PredictRequest")()
    sent.model_spec.name = "dbl"
    for name, value in spec.items():
        if name == "version":
            sent.model_spec.version.value = value
        else:
            setattr(sent.model_spec, name, value)
    tensor = sent.inputs["x"]
    tensor.dtype = 1
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if typed:
        tensor.float_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()
    return sent


def test_tensorflow_servings_predict_gives_the_engines_bits(call: Any, expected: Any) -> None:
    answer = message("tensorflow.serving.PredictResponse")
    for spec in ({}, {"typed": True}, {"version": 2}, {"signature_name": "serving_default"}):
        reply = call(PREDICT, predict(rows(), **spec), answer)
        found = np.array(reply.outputs["y"].float_val, dtype=np.float32)
        assert found.tobytes() == expected.tobytes()
        assert [dim.size for dim in reply.outputs["y"].tensor_shape.dim] == [40, 3]
        assert (reply.model_spec.name, reply.model_spec.version.value) == ("dbl", 2)


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"name": "half"}, "NOT_FOUND", "Servable not found for request: Latest(half)"),
        ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(dbl, 9)"),
        ({"version_label": "old"}, "INVALID_ARGUMENT", "Unrecognized servable version label: old"),
        ({"signature_name": "x"}, "INVALID_ARGUMENT", 'Serving signature name: "x" not found'),
    ],
)
def test_tensorflow_servings_errors_are_worded_as_there(
    call: Any, spec: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(PREDICT, predict(rows(), **spec), message("tensorflow.serving.PredictResponse"))
    assert caught.value.code().name == code
    assert text in caught.value.details()


def test_tensorflow_servings_metadata_names_the_signature(call: Any) -> None:
    sent = message("tensorflow.serving.GetModelMetadataRequest")(metadata_field=["signature_def"])
    sent.model_spec.name = "dbl"
    reply = call(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        sent,
        message("tensorflow.serving.GetModelMetadataResponse"),
    )
    signatures = message("tensorflow.serving.SignatureDefMap")()
    assert reply.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in signature.inputs["x"].tensor_shape.dim] == [-1, 3]
    assert signature.outputs["y"].dtype == 1


def test_tensorflow_servings_status_lists_the_versions(call: Any) -> None:
    sent = message("tensorflow.serving.GetModelStatusRequest")()
    sent.model_spec.name = "dbl"
    answer = message("tensorflow.serving.GetModelStatusResponse")
    path = "/tensorflow.serving.ModelService/GetModelStatus"
    found = call(path, sent, answer).model_version_status
    assert [(each.version, each.state) for each in found] == [(1, 30), (2, 30)]
    sent.model_spec.name = "half"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model half"):
        call(path, sent, answer)


def test_what_tensorflow_serving_has_beside_predict_says_what_to_do(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Classify")(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "call Predict" in caught.value.details()


def test_the_standard_health_client_gets_an_answer(channel: Any) -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub(channel)
    for name in ("", "dbl", "inference.GRPCInferenceService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = stub.Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert next(watched).status == 3  # SERVICE_UNKNOWN
    watched.cancel()


def test_the_standard_reflection_client_learns_all_services(channel: Any) -> None:
    module = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    pool = pytest.importorskip("google.protobuf.descriptor_pool")
    database = module.ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    assert {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    } <= names
    learned = pool.DescriptorPool(database)
    for name in names:
        assert learned.FindServiceByName(name).methods
    with pytest.raises(KeyError):
        learned.FindMessageTypeByName("inference.Nothing")


def test_calls_are_counted_as_those_over_http(served: Any, call: Any) -> None:
    call(INFER, request(rows(), raw=True), service_pb2.ModelInferResponse)
    text = httpx2.get(f"{served.url}/metrics").text
    lines = [line for line in text.splitlines() if '"oip-grpc"' in line]
    assert any('"dbl"' in line and '"2xx"' in line for line in lines), lines
