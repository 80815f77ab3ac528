"""Our messages are on the wire what the clients' are."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("grpc")
schema = pytest.importorskip("mlserve_cli.runtime.rpc.schema")
proto_text = pytest.importorskip("mlserve_cli.runtime.rpc.proto_text")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
reflection_pb2 = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")


def field(found: Any) -> tuple[Any, ...]:
    """What of a field is on the wire, and how it is named."""
    kind = found.message_type or found.enum_type
    one_of = found.containing_oneof.name if found.containing_oneof else None
    full = kind.full_name if kind else None
    return found.number, found.type, found.is_repeated, found.is_packed, one_of, full


def compare(ours: Any, theirs: Any) -> None:
    """Each of our fields is one of theirs; `theirs` may have more."""
    known = theirs.fields_by_name
    for name, found in ours.fields_by_name.items():
        assert field(found) == field(known[name]), found.full_name
        if found.enum_type:
            for value in found.enum_type.values:
                assert known[name].enum_type.values_by_name[value.name].number == value.number
    for name, nested in ours.nested_types_by_name.items():
        compare(nested, theirs.nested_types_by_name[name])


@pytest.mark.parametrize(
    ("file", "module", "whole"),
    [
        ("open_inference.proto", service_pb2, True),
        ("model_config.proto", model_config_pb2, False),
        ("health.proto", health_pb2, False),
        ("reflection_alpha.proto", reflection_pb2, True),
    ],
)
def test_a_file_agrees_with_the_clients_own(file: str, module: Any, whole: bool) -> None:
    ours, theirs = schema.pool.FindFileByName(file), module.DESCRIPTOR
    assert ours.package == theirs.package
    for name, found in ours.message_types_by_name.items():
        compare(found, theirs.message_types_by_name[name])
    if whole:
        assert set(ours.message_types_by_name) == set(theirs.message_types_by_name)
        for name, found in ours.message_types_by_name.items():
            same = theirs.message_types_by_name[name].fields_by_name
            assert set(found.fields_by_name) == set(same)


def test_the_service_has_every_method_of_tritons() -> None:
    ours = schema.pool.FindServiceByName("inference.GRPCInferenceService")
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def forms(service: Any) -> dict[str, tuple[Any, ...]]:
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }

    assert forms(ours) == forms(theirs)


TENSORFLOW = """
tensorflow.TensorShapeProto
    2 repeated tensorflow.TensorShapeProto.Dim dim
    3 bool unknown_rank
tensorflow.TensorShapeProto.Dim
    1 int64 size
    2 string name
tensorflow.TensorProto
    1 tensorflow.DataType dtype
    2 tensorflow.TensorShapeProto tensor_shape
    3 int32 version_number
    4 bytes tensor_content
    5 packed float float_val
    6 packed double double_val
    7 packed int32 int_val
    8 repeated bytes string_val
    10 packed int64 int64_val
    11 packed bool bool_val
    13 packed int32 half_val
    16 packed uint32 uint32_val
    17 packed uint64 uint64_val
tensorflow.TensorInfo
    1 string name (encoding)
    2 tensorflow.DataType dtype
    3 tensorflow.TensorShapeProto tensor_shape
tensorflow.SignatureDef
    1 map<string, tensorflow.TensorInfo> inputs
    2 map<string, tensorflow.TensorInfo> outputs
    3 string method_name
tensorflow.serving.ModelSpec
    1 string name
    2 google.protobuf.Int64Value version (version_choice)
    3 string signature_name
    4 string version_label (version_choice)
tensorflow.serving.PredictRequest
    1 tensorflow.serving.ModelSpec model_spec
    2 map<string, tensorflow.TensorProto> inputs
    3 repeated string output_filter
tensorflow.serving.PredictResponse
    1 map<string, tensorflow.TensorProto> outputs
    2 tensorflow.serving.ModelSpec model_spec
tensorflow.serving.SignatureDefMap
    1 map<string, tensorflow.SignatureDef> signature_def
tensorflow.serving.GetModelMetadataRequest
    1 tensorflow.serving.ModelSpec model_spec
    2 repeated string metadata_field
tensorflow.serving.GetModelMetadataResponse
    1 tensorflow.serving.ModelSpec model_spec
    2 map<string, google.protobuf.Any> metadata
tensorflow.serving.StatusProto
    1 tensorflow.error.Code error_code
    2 string error_message
tensorflow.serving.ModelVersionStatus
    1 int64 version
    2 tensorflow.serving.ModelVersionStatus.State state
    3 tensorflow.serving.StatusProto status
tensorflow.serving.GetModelStatusRequest
    1 tensorflow.serving.ModelSpec model_spec
tensorflow.serving.GetModelStatusResponse
    1 repeated tensorflow.serving.ModelVersionStatus model_version_status
"""
"""As in TensorFlow Serving 2.21 (tensorflow_serving/apis) and TensorFlow (core/framework,
core/protobuf/meta_graph.proto): number, type, name and, in brackets, what it is one of."""

TENSORFLOW_ENUMS = {
    "tensorflow.DataType": (
        "INVALID 0, FLOAT 1, DOUBLE 2, INT32 3, UINT8 4, INT16 5, INT8 6, STRING 7, COMPLEX64 8, "
        "INT64 9, BOOL 10, BFLOAT16 14, UINT16 17, COMPLEX128 18, HALF 19, UINT32 22, UINT64 23"
    ),
    "tensorflow.error.Code": (
        "OK 0, CANCELLED 1, UNKNOWN 2, INVALID_ARGUMENT 3, DEADLINE_EXCEEDED 4, NOT_FOUND 5, "
        "ALREADY_EXISTS 6, PERMISSION_DENIED 7, RESOURCE_EXHAUSTED 8, FAILED_PRECONDITION 9, "
        "ABORTED 10, OUT_OF_RANGE 11, UNIMPLEMENTED 12, INTERNAL 13, UNAVAILABLE 14, "
        "DATA_LOSS 15, UNAUTHENTICATED 16"
    ),
    "tensorflow.serving.ModelVersionStatus.State": (
        "UNKNOWN 0, START 10, LOADING 20, AVAILABLE 30, UNLOADING 40, END 50"
    ),
}

TENSORFLOW_METHODS = {
    "tensorflow.serving.PredictionService": {
        "Predict": ("PredictRequest", "PredictResponse"),
        "GetModelMetadata": ("GetModelMetadataRequest", "GetModelMetadataResponse"),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": ("GetModelStatusRequest", "GetModelStatusResponse"),
    },
}

TENSORFLOW_FILES = ("tensorflow.proto", "tensorflow_errors.proto", "tensorflow_serving.proto")


def written(found: Any) -> str:
    """A field as the table has it."""

    def kind(each: Any) -> str:
        named = each.message_type or each.enum_type
        scalars = {getattr(each, f"TYPE_{name.upper()}"): name for name in proto_text._SCALARS}
        return named.full_name if named else scalars[each.type]

    entry = found.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = entry.fields
        assert (key.name, key.number, value.name, value.number) == ("key", 1, "value", 2)
        what = f"map<{kind(key)}, {kind(value)}>"
    else:
        repeated = "packed " if found.is_packed else "repeated " if found.is_repeated else ""
        what = repeated + kind(found)
    one_of = f" ({found.containing_oneof.name})" if found.containing_oneof else ""
    return f"    {found.number} {what} {found.name}{one_of}"


def test_tensorflows_messages_have_its_numbers_and_types() -> None:
    lines: list[str] = []

    def walk(message: Any) -> None:
        if message.GetOptions().map_entry:
            return
        lines.append(message.full_name)
        lines.extend(written(each) for each in sorted(message.fields, key=lambda one: one.number))
        for nested in message.nested_types:
            walk(nested)

    for file in TENSORFLOW_FILES:
        for message in schema.pool.FindFileByName(file).message_types_by_name.values():
            walk(message)
    assert lines == TENSORFLOW.strip().splitlines()


@pytest.mark.parametrize("name", TENSORFLOW_ENUMS)
def test_tensorflows_enumerations_have_its_numbers(name: str) -> None:
    values = schema.pool.FindEnumTypeByName(name).values
    found = [f"{each.name.removeprefix('DT_')} {each.number}" for each in values]
    assert found == TENSORFLOW_ENUMS[name].split(", ")


def test_tensorflows_services_have_its_paths_and_messages() -> None:
    package = "tensorflow.serving."
    found = {
        service.full_name: {
            method.name: (
                method.input_type.full_name.removeprefix(package),
                method.output_type.full_name.removeprefix(package),
            )
            for method in service.methods
            if not (method.client_streaming or method.server_streaming)
        }
        for file in TENSORFLOW_FILES
        for service in schema.pool.FindFileByName(file).services_by_name.values()
    }
    assert found == TENSORFLOW_METHODS


def test_every_enumeration_of_tensorflows_is_in_the_table() -> None:
    names = set()

    def walk(found: Any) -> None:
        names.update(each.full_name for each in found.enum_types_by_name.values())
        for nested in getattr(found, "message_types_by_name", {}).values():
            walk(nested)
        for nested in getattr(found, "nested_types", ()):
            walk(nested)

    for file in TENSORFLOW_FILES:
        walk(schema.pool.FindFileByName(file))
    assert names == TENSORFLOW_ENUMS.keys()


def test_our_messages_are_not_registered_with_the_process() -> None:
    from google.protobuf import descriptor_pool

    assert schema.pool is not descriptor_pool.Default()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.PredictRequest")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("message A { string a = 1 }", "'}' stands where ';' must"),
        ("option b;", "'option' begins nothing"),
        ("message A { string a = 1; } ?", "'\\?' has no meaning"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        proto_text.read(text, name="mine.proto")


def test_a_type_that_is_nowhere_is_named() -> None:
    file = proto_text.read('syntax = "proto3"; message A { Lost a = 1; }', name="mine.proto")
    with pytest.raises(ValueError, match="there is no type 'Lost'"):
        schema.resolve(file, {})
