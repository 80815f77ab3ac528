"""The messages of the Open Inference Protocol (version 2, REST), as they are parsed.

Unknown keys are ignored, as in Triton and KServe. What JSON alone cannot say right or wrong is
checked where it is used. A parameter is text, a number, true or false ("Inference Request JSON
Object"), so nothing but tensor data can be nested.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import InvalidRequest, NotImplementedHere

FULL = "Exceeds maximum queue size"
"""How Triton begins to say that there is too much to do; clients look for it."""

Parameters = dict[str, bool | int | float | str | None]


class InferInput(msgspec.Struct):
    """One input tensor; its data is here, or in the binary part of the body."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: Any = msgspec.UNSET


class RequestedOutput(msgspec.Struct):
    """One output that the client wants."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct):
    """A request for an inference."""

    inputs: list[InferInput]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[RequestedOutput] = []


class _RawInput(InferInput):
    """An input whose data stays text, to be converted a piece at a time."""

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _RawRequest(InferRequest, kw_only=True):
    inputs: list[_RawInput]  # type: ignore[assignment]


decoder = msgspec.json.Decoder(InferRequest)
large_decoder = msgspec.json.Decoder(_RawRequest)
"""For requests whose data would take long to parse in one go; it takes no NaN."""

_RESERVED = "triton_"
_SEQUENCE = "sequence_id"
_YEAR_US = 365 * 24 * 3600 * 1_000_000


def check(request: InferRequest) -> None:
    """Refuse doubled names and parameters that are reserved or would be silently not done."""
    seen: set[str] = set()
    for item in request.inputs:
        if item.name in seen:
            raise InvalidRequest(f"input '{item.name}' already exists in request")
        seen.add(item.name)
        if "shared_memory_region" in item.parameters:
            raise NotImplementedHere(
                f"input '{item.name}' lies in shared memory, which is not served",
                hint="send the data in the body, as JSON or binary",
            )
    seen.clear()
    for output in request.outputs:
        if output.name in seen:
            raise InvalidRequest(f"output '{output.name}' already exists in request")
        seen.add(output.name)
        if output.parameters.get("shared_memory_region"):
            raise NotImplementedHere(
                f"output '{output.name}' asks for shared memory, which is not served",
                hint="leave it out and read the tensor from the body",
            )
    for name in request.parameters:
        if name.startswith(_RESERVED):
            raise InvalidRequest(
                f"parameter '{name}' is reserved: names beginning with '{_RESERVED}' "
                "cannot be set by a request"
            )
    if request.parameters.get(_SEQUENCE):
        raise NotImplementedHere(
            f"the request belongs to sequence {request.parameters[_SEQUENCE]!r}, and sequences are "
            "not served",
            hint="send each request on its own, without 'sequence_id'",
        )


def timeout_us(request: InferRequest) -> int | None:
    """The `timeout` parameter in microseconds; None where it is missing or 0, which is no limit."""
    value = request.parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise InvalidRequest(
            f"parameter 'timeout' is {value!r}, and it must be a whole number of microseconds"
        )
    # Python's integers know no end, floats do; a year is as good as no limit.
    return min(value, _YEAR_US) or None


def priority(request: InferRequest) -> int:
    """The `priority` parameter: 1 before all others, then 2 and so on; 0 where it is missing."""
    value = request.parameters.get("priority")
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**32:
        raise InvalidRequest(
            f"parameter 'priority' is {value!r}, and it must be a whole number from 0 to 2^32 - 1",
            hint="1 is the most urgent; 0 means the default",
        )
    return value


def classes(output: RequestedOutput) -> int:
    """How many classes the client wants instead of the tensor; 0: it wants the tensor."""
    value = output.parameters.get("classification")
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise InvalidRequest(
            f"'classification' of output '{output.name}' is {value!r}, "
            "and it must be a number of classes"
        )
    return value


def value_of(request: InferRequest, name: str) -> str | None:
    """A parameter, or the first value of an input that stands in the JSON, as text; None: neither.

    Traffic that sticks to a field of the request is routed by it.
    """
    found: Any = request.parameters.get(name)
    if found is None:
        data = (item.data for item in request.inputs if item.name == name)
        found = next(data, None)
    if isinstance(found, msgspec.Raw):
        found = msgspec.json.decode(found)
    while isinstance(found, list) and found:
        found = found[0]
    return None if found in (None, msgspec.UNSET) or isinstance(found, list) else str(found)


def flag(parameters: Parameters, name: str) -> bool | None:
    """A parameter that is true or false; None where it is missing."""
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidRequest(f"parameter '{name}' is {value!r}, and it must be true or false")
    return value
