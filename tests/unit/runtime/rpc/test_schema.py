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


def test_tensorflow_servings_numbers_are_kept() -> None:
    """As in tensorflow_serving/apis and tensorflow/core/framework, which no package here has."""

    def numbers(name: str) -> dict[str, int]:
        found = schema.pool.FindMessageTypeByName(name)
        return {each.name: each.number for each in found.fields}

    assert numbers("tensorflow.serving.ModelSpec") == {
        "name": 1,
        "version": 2,
        "signature_name": 3,
        "version_label": 4,
    }
    assert numbers("tensorflow.serving.PredictRequest") == {
        "model_spec": 1,
        "inputs": 2,
        "output_filter": 3,
    }
    assert numbers("tensorflow.serving.PredictResponse") == {"outputs": 1, "model_spec": 2}
    tensor = numbers("tensorflow.TensorProto")
    assert (tensor["dtype"], tensor["tensor_shape"], tensor["tensor_content"]) == (1, 2, 4)
    assert (tensor["float_val"], tensor["string_val"], tensor["half_val"]) == (5, 8, 13)
    assert numbers("tensorflow.TensorShapeProto") == {"dim": 2, "unknown_rank": 3}


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
