"""`POST /feedback/{model}`: what the truth was about rows that were answered.

    {"id": "order-42", "truth": "versicolor"}        one, a list of them, or one a line (JSON Lines)
    {"id": "order-43", "row": 1, "truth": 2}         of several rows, the second; a class's number

A body is read as a whole before anything of it counts; one that is malformed changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import audit, body
from ..errors import Conflict, InvalidRequest, TooLarge
from ..monitoring.record import LONGEST_ID
from .decisions import LONGEST, WIDEST
from .memory import UNKNOWN, Memory, Pair

if TYPE_CHECKING:
    from ..server import Server

LIMIT_BYTES = 8 << 20
"""Some hundred thousand truths; they are in memory together."""

_THREAD_BYTES = 64 << 10
"""Parsing more than this holds the event loop up for a millisecond."""

_TURN_S = 0.0005
"""Truths are joined for so long before the event loop has its turn."""

Text = Annotated[str, Meta(max_length=LONGEST)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Item(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One truth."""

    id: Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
    truth: (
        Text
        | Number
        | float
        | bool
        | Annotated[tuple[float, ...], Meta(min_length=1, max_length=WIDEST)]
    )
    row: Annotated[int, Meta(ge=0, le=2**31)] = 0


_list = msgspec.json.Decoder(list[Item])
_lines = msgspec.json.Decoder(Item)


class Feedback:
    """The endpoint. It is not hot: ordinary Starlette."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limit_bytes = min(LIMIT_BYTES, int(server.settings.max_body_mb * (1 << 20)))

    async def post(self, request: Request) -> Response:
        """Join truths; how many were joined, corrected, known already or unknown, and why."""
        model = request.path_params["model"]
        memory = self._memory(model)
        items = await self._items(request)
        counts: dict[str, int] = {}
        first: dict[str, Any] | None = None
        lines: list[bytes] = []
        file = self._server.pairs
        began = time.perf_counter()
        for number, item in enumerate(items):
            if time.perf_counter() - began > _TURN_S:
                await asyncio.sleep(0)
                began = time.perf_counter()
            pairs: list[Pair] | None = None if file is None else []
            result = memory.join(model, item.id, item.row, item.truth, pairs)
            counts[result] = counts.get(result, 0) + 1
            if first is None and result in UNKNOWN:
                first = {"item": number, "id": item.id, "row": item.row, "reason": result}
            if pairs:
                lines += _written(model, item, pairs)
        reasons = {reason: counts[reason] for reason in UNKNOWN if reason in counts}
        document: dict[str, Any] = {
            "model": model,
            "received": len(items),
            "joined": counts.get("joined", 0),
            "corrected": counts.get("corrected", 0),
            "duplicate": counts.get("duplicate", 0),
            "unknown": sum(reasons.values()),
            "reasons": reasons,
        }
        if first is not None:
            document["first_unknown"] = first
        if file is not None:
            document["kept"] = await file.append(lines) if lines else True
        return JSONResponse(document)

    def _memory(self, model: str) -> Memory:
        """What remembers that model. Raises `Conflict`, `NotFound`."""
        server = self._server
        memory = server.memory
        versions = server.registry.versions(model)
        if not versions and not (memory is not None and memory.knows(model)):
            server.registry.get(model)  # raises NotFound in the usual words
        if memory is None:
            raise Conflict(
                "this server remembers no predictions, so there is nothing to join a truth to",
                hint="start it with --feedback-rows 100000, or set feedback_rows",
            )
        found = [server.registry.get(model, version).manifest for version in versions]
        if found and not memory.knows(model) and not any(map(memory.decides, found)):
            outputs = ", ".join(f"'{spec.name}'" for spec in found[-1].outputs)
            raise Conflict(
                f"nothing tells which of the outputs {outputs} of model '{model}' is its decision",
                hint="declare classes or values in the package's PROCESSING",
            )
        return memory

    async def _items(self, request: Request) -> list[Item]:
        """The body's truths. Raises `InvalidRequest`, `TooLarge` and what unpacking raises."""
        headers = dict(request.scope["headers"])
        limit_bytes = self._limit_bytes
        try:
            sent = await body.read(headers, request.receive, limit_bytes=limit_bytes)
            text = await body.unpack(headers, sent, limit_bytes=limit_bytes)
        except TooLarge as error:
            raise TooLarge(error.message, hint="send the truths in several requests") from error
        except body.Disconnected:  # nobody reads the answer
            raise InvalidRequest("the client left before its body ended") from None
        return parse(text) if len(text) <= _THREAD_BYTES else await asyncio.to_thread(parse, text)


def parse(text: bytes) -> list[Item]:
    """One object, a list of objects, or an object a line. Raises `InvalidRequest`."""
    try:
        if text.lstrip()[:1] == b"[":
            return _list.decode(text)
        items = _lines.decode_lines(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the truths do not fit: {error}", hint=_FORM) from error
    if not items:
        raise InvalidRequest("the body holds no truth", hint=_FORM)
    return items


_FORM = (
    'an object such as {"id": "…", "truth": "cat"}, with "row" where several rows were answered; '
    "a list of them, or one a line; id is X-Request-Id of the answer"
)


def _written(model: str, item: Item, pairs: list[Pair]) -> list[bytes]:
    """The lines of the file for one truth: one for each version that answered."""
    now = audit.now()
    return [
        msgspec.json.encode(
            {
                "time": now,
                "model": model,
                "version": pair.version,
                "arm": pair.arm,
                "id": item.id,
                "row": item.row,
                "prediction": pair.prediction,
                "truth": pair.truth,
            }
        )
        for pair in pairs
    ]
