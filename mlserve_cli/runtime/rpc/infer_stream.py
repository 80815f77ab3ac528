"""`ModelStreamInfer`: many requests over one call, answered in their order.

Some are worked at while the first is not answered yet, so that they can share a batch; no more
are read before one of those was sent, so that a quick client cannot fill the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from ..errors import RequestError, release
from ..protocols import errors
from .calls import CLIENT_LEFT, Answer, Call, Calls, code_of, parse, sentence, trailing
from .infer_messages import Request
from .schema import message

_AHEAD = 32
"""Requests of one stream in work at a time: a batch's worth for most models."""

_FINAL = "triton_final_response"  # each request has one answer, so every answer is the last
_ASKS_FOR_FINAL = "triton_enable_empty_final_response"
_STRICT = "triton_grpc_error"  # metadata: an error is to end the stream, with its own status

Response = message("inference.ModelStreamInferResponse")


class InferStream:
    """Answers streams."""

    def __init__(self, calls: Calls, operation: str, answer: Answer) -> None:
        self._calls = calls
        self._operation = operation
        self._answer = answer

    def handler(self) -> grpc.RpcMethodHandler:
        """For the table of methods."""
        return grpc.stream_stream_rpc_method_handler(self._handle)

    async def _handle(self, bodies: Any, context: Any) -> None:
        opened = Call(self._operation, context)
        context.set_trailing_metadata(trailing(opened.request_id, None))
        try:
            self._calls.require(opened, "infer")
        except RequestError as error:
            self._calls.finish(opened, error.status, error)
            await context.abort(code_of(error), sentence(error))
        strict = opened.metadata(_STRICT) == "true"
        waiting: asyncio.Queue[asyncio.Task[_Answered] | None] = asyncio.Queue(_AHEAD)
        reader = asyncio.create_task(self._read(bodies, context, waiting))
        try:
            while (task := await waiting.get()) is not None:
                answered = await task
                if strict and answered.code is not None:
                    await context.abort(answered.code, answered.reply.error_message)
                await context.write(answered.reply.SerializeToString())
            await reader
        finally:
            # The client left, or a strict stream failed: nobody waits for the rest.
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            while not waiting.empty():
                left = waiting.get_nowait()
                if left is not None:
                    left.cancel()

    async def _read(
        self, bodies: Any, context: Any, waiting: asyncio.Queue[asyncio.Task[_Answered] | None]
    ) -> None:
        """Begin with each request as it comes."""
        task: asyncio.Task[_Answered] | None = None
        try:
            async for body in bodies:
                task = asyncio.create_task(self._one(body, Call(self._operation, context)))
                await waiting.put(task)
                task = None
        finally:
            if task is not None:
                task.cancel()
        await waiting.put(None)

    async def _one(self, body: bytes, call: Call) -> _Answered:
        """Answer one request; only being cancelled raises."""
        refused: RequestError | None = None
        identity = ""
        try:
            call.held = self._calls.server.dataplane.hold(len(body))
            sent = parse(Request, body)
            identity = sent.id
            asks_for_final = False
            if _ASKS_FOR_FINAL in sent.parameters:
                asks_for_final = sent.parameters[_ASKS_FOR_FINAL].bool_param
                del sent.parameters[_ASKS_FOR_FINAL]
            answer = await self._answer(sent, call)
        except asyncio.CancelledError:
            self._calls.finish(call, CLIENT_LEFT, None)
            raise
        except RequestError as error:
            refused = error
            answered = _Answered(_failed(sentence(error), identity), code_of(error))
            release(error)
        except Exception as error:
            answered = _Answered(_failed(errors.logged(error), identity), grpc.StatusCode.INTERNAL)
            release(error)
        else:
            if asks_for_final:
                answer.parameters[_FINAL].bool_param = True
            answered = _Answered(Response(infer_response=answer), None)
        finally:
            call.let_go()
        status = 200 if answered.code is None else refused.status if refused else 500
        self._calls.finish(call, status, refused)
        return answered


class _Answered:
    """A message to send, and the status that it would have had alone; None where it went well."""

    __slots__ = ("code", "reply")

    def __init__(self, reply: Any, code: grpc.StatusCode | None) -> None:
        self.reply = reply
        self.code = code


def _failed(text: str, identity: str) -> Any:
    """The client finds by its id which of its requests an error belongs to."""
    return Response(error_message=text, infer_response={"id": identity})
