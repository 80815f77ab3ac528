"""The messages of the Open Inference Protocol (version 2, REST), as they are parsed.

Unknown keys are ignored, as in Triton and KServe. What JSON alone cannot say right or wrong is
checked where it is used.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import InvalidRequest, NotImplementedHere


class InferInput(msgspec.Struct):
    """One input tensor; its data is here, or in the binary part of the body."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = msgspec.UNSET


class RequestedOutput(msgspec.Struct):
    """One output that the client wants."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """A request for an inference."""

    inputs: list[InferInput]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


decoder = msgspec.json.Decoder(InferRequest)

_RESERVED = "triton_"
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
        for name in ("classification", "shared_memory_region"):
            if output.parameters.get(name):
                raise NotImplementedHere(
                    f"output '{output.name}' asks for '{name}', which is not served",
                    hint="leave it out and read the tensor",
                )
    for name in request.parameters:
        if name.startswith(_RESERVED):
            raise InvalidRequest(
                f"parameter '{name}' is reserved: names beginning with '{_RESERVED}' "
                "cannot be set by a request"
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


def flag(parameters: dict[str, Any], name: str) -> bool | None:
    """A parameter that is true or false; None where it is missing."""
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidRequest(f"parameter '{name}' is {value!r}, and it must be true or false")
    return value
