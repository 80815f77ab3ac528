"""`grpc.reflection.v1.ServerReflection` and its older form: what is served, for grpcurl and others.

It tells the form of the messages, which is public, and never what models there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor

from ..errors import RequestError
from .calls import code_of, parse, sentence
from .schema import message, pool

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


class Reflection:
    """Answers one form of the service; `package` is that of its messages."""

    def __init__(self, package: str, services: Sequence[str]) -> None:
        self.service = f"{package}.ServerReflection"
        self._services = services
        self._request = message(f"{package}.ServerReflectionRequest")
        self._response = message(f"{package}.ServerReflectionResponse")

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Its method by name."""
        return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._info)}

    async def _info(self, bodies: Any, context: Any) -> AsyncIterator[bytes]:
        async for body in bodies:
            try:
                sent = parse(self._request, body)
            except RequestError as error:
                await context.abort(code_of(error), sentence(error))
            yield self._answer(sent).SerializeToString()

    def _answer(self, sent: Any) -> Any:
        reply = self._response(valid_host=sent.host, original_request=sent)
        try:
            match sent.WhichOneof("message_request"):
                case "list_services":
                    for name in self._services:
                        reply.list_services_response.service.add(name=name)
                case "file_by_filename":
                    _add_files(reply, pool.FindFileByName(sent.file_by_filename))
                case "file_containing_symbol":
                    _add_files(reply, pool.FindFileContainingSymbol(sent.file_containing_symbol))
                case "all_extension_numbers_of_type":
                    name = sent.all_extension_numbers_of_type
                    pool.FindMessageTypeByName(name)
                    reply.all_extension_numbers_response.base_type_name = name
                case "file_containing_extension":
                    raise KeyError  # proto3 has none
                case _:
                    _fail(reply, grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        except KeyError:
            _fail(reply, grpc.StatusCode.NOT_FOUND, "there is no such file, symbol or extension")
        return reply


def _add_files(reply: Any, file: FileDescriptor) -> None:
    """A file and all that it imports, so that one answer is enough."""
    waiting, seen = [file], set()
    while waiting:
        each = waiting.pop()
        if each.name not in seen:
            seen.add(each.name)
            reply.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)
            waiting += each.dependencies


def _fail(reply: Any, code: grpc.StatusCode, text: str) -> None:
    reply.error_response.error_code = code.value[0]
    reply.error_response.error_message = text
