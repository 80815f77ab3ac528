"""Reads a .proto text: the part of proto3 that our files use, which has no options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2

_TOKEN = re.compile(r'//[^\n]*|"([^"]*)"|([\w.-]+|[{}()<>=;,])|\s+|(.)')
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: _FIELD.Type.Value(f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}


def read(text: str, *, name: str) -> Any:
    """The FileDescriptorProto of a .proto text; its types are still named as they are written."""
    return _Reader(text, name).file()


class _Reader:
    """Reads one file, token by token."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens = list(_tokens(text, name))
        self._at = 0

    def file(self) -> Any:
        """All of it."""
        file = descriptor_pb2.FileDescriptorProto(name=self._name)
        while self._at < len(self._tokens):
            match self._next():
                case "syntax":
                    self._expect("=")
                    file.syntax = self._next()
                case "package":
                    file.package = self._next()
                case "import":
                    file.dependency.append(self._next())
                case "message":
                    self._message(file.message_type.add())
                    continue
                case "enum":
                    self._enum(file.enum_type.add())
                    continue
                case "service":
                    self._service(file.service.add())
                    continue
                case other:
                    raise ValueError(f"'{self._name}': '{other}' begins nothing that is known")
            self._expect(";")
        return file

    def _message(self, message: Any) -> None:
        message.name = self._next()
        self._expect("{")
        while not self._is("}"):
            if self._is("message"):
                self._message(message.nested_type.add())
            elif self._is("enum"):
                self._enum(message.enum_type.add())
            elif self._is("oneof"):
                message.oneof_decl.add(name=self._next())
                self._expect("{")
                while not self._is("}"):
                    self._field(message).oneof_index = len(message.oneof_decl) - 1
            else:
                self._field(message)

    def _field(self, message: Any) -> Any:
        field = message.field.add(label=_FIELD.LABEL_OPTIONAL)
        if self._is("repeated"):
            field.label = _FIELD.LABEL_REPEATED
        kind = self._next()
        if kind == "map":
            self._expect("<")
            key = self._next()
            self._expect(",")
            value = self._next()
            self._expect(">")
            self._tail(field)
            field.label = _FIELD.LABEL_REPEATED
            entry = "".join(part.capitalize() for part in field.name.split("_")) + "Entry"
            _type(field, entry)
            nested = message.nested_type.add(name=entry)
            nested.options.map_entry = True
            for number, (name, of) in enumerate((("key", key), ("value", value)), start=1):
                _type(nested.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL), of)
        else:
            _type(field, kind)
            self._tail(field)
        return field

    def _tail(self, field: Any) -> None:
        field.name = self._next()
        self._expect("=")
        field.number = int(self._next())
        self._expect(";")

    def _enum(self, enum: Any) -> None:
        enum.name = self._next()
        self._expect("{")
        while not self._is("}"):
            value = enum.value.add(name=self._next())
            self._expect("=")
            value.number = int(self._next())
            self._expect(";")

    def _service(self, service: Any) -> None:
        service.name = self._next()
        self._expect("{")
        while not self._is("}"):
            self._expect("rpc")
            method = service.method.add(name=self._next())
            self._expect("(")
            method.client_streaming = self._is("stream")
            method.input_type = self._next()
            for token in (")", "returns", "("):
                self._expect(token)
            method.server_streaming = self._is("stream")
            method.output_type = self._next()
            self._expect(")")
            self._expect(";")

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _is(self, token: str) -> bool:
        """Whether that is next; if so, it is taken."""
        found = self._tokens[self._at] == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        found = self._next()
        if found != token:
            raise ValueError(f"'{self._name}': '{found}' stands where '{token}' must")


def _tokens(text: str, name: str) -> Iterator[str]:
    for found in _TOKEN.finditer(text):
        quoted, plain, strange = found.groups()
        if strange is not None:
            raise ValueError(f"'{name}': '{strange}' has no meaning here")
        if quoted is not None or plain is not None:
            yield quoted if quoted is not None else plain


def _type(field: Any, name: str) -> None:
    if name in _SCALARS:
        field.type = _SCALARS[name]
    else:
        field.type_name = name
