"""Our .proto files → message classes, in a pool of their own.

Generated code would register its messages with the whole process, where another copy of the same
protocol, such as that of a client library, must not be; and it is tied to the protobuf that
generated it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, message_factory, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from .proto_text import read

FOLDER = Path(__file__).parent / "protos"

_FILES = (  # each after those that it imports
    "model_config",
    "open_inference",
    "tensorflow",
    "tensorflow_errors",
    "tensorflow_serving",
    "health",
    "reflection",
    "reflection_alpha",
)
_FIELD = descriptor_pb2.FieldDescriptorProto


def resolve(file: Any, known: dict[str, int]) -> None:
    """Replace the names of types by their full ones, and add this file's own types to `known`.

    known: full name, from a dot on → whether it is a message or an enumeration, as a number.
    """
    package = f".{file.package}"
    for message in file.message_type:
        _collect(message, package, known)
    known.update({f"{package}.{enum.name}": _FIELD.TYPE_ENUM for enum in file.enum_type})
    for message in file.message_type:
        _resolve_fields(message, package, known)
    for service in file.service:
        for method in service.method:
            method.input_type = _find(method.input_type, package, known)
            method.output_type = _find(method.output_type, package, known)


def _collect(message: Any, scope: str, known: dict[str, int]) -> None:
    inner = f"{scope}.{message.name}"
    known[inner] = _FIELD.TYPE_MESSAGE
    known.update({f"{inner}.{enum.name}": _FIELD.TYPE_ENUM for enum in message.enum_type})
    for nested in message.nested_type:
        _collect(nested, inner, known)


def _resolve_fields(message: Any, scope: str, known: dict[str, int]) -> None:
    inner = f"{scope}.{message.name}"
    for nested in message.nested_type:
        _resolve_fields(nested, inner, known)
    for field in message.field:
        if field.type_name:
            field.type_name = _find(field.type_name, inner, known)
            field.type = known[field.type_name]


def _find(name: str, scope: str, known: dict[str, int]) -> str:
    """The full name that `name` means inside `scope`: the innermost that there is."""
    while f"{scope}.{name}" not in known:
        if not scope:
            raise ValueError(f"there is no type '{name}'")
        scope = scope.rpartition(".")[0]
    return f"{scope}.{name}"


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    known: dict[str, int] = {}
    for module in (any_pb2, wrappers_pb2):
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        pool.Add(file)
        for message in file.message_type:
            _collect(message, f".{file.package}", known)
    for name in _FILES:
        text = (FOLDER / f"{name}.proto").read_text(encoding="utf-8")
        file = read(text, name=f"{name}.proto")
        resolve(file, known)
        pool.Add(file)
    return pool


pool = _pool()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
